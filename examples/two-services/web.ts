// The service `web`: a page that shows the orders. It asks for them in plain HTTP at the address that it was given, which
// is its sidecar's; who it is and whom it may ask is not its business. Who asks it reads from what the gateway says: its
// sidecar has verified that, and lets nobody else say it.

import { createServer } from 'node:http';

const ordersUrl = process.env['ORDERS_URL'] ?? 'http://127.0.0.1:15002';

createServer(async (request, response) => {
  try {
    const answer = await fetch(`${ordersUrl}/orders`);
    const user = userOf(request.headers['txn-token']);
    const text = answer.ok
      ? `orders${user}: ${Object.values((await answer.json()) as Record<string, string>).join(', ')}`
      : 'the orders are not for us';
    response.writeHead(answer.status, { 'content-type': 'text/plain' }).end(`${text}\n`);
  } catch {
    response.writeHead(502, { 'content-type': 'text/plain' }).end('orders does not answer\n');
  }
}).listen(Number(process.env['PORT'] ?? 8082), '127.0.0.1');

/** ` for ada`, or nothing where no gateway has said who it is. */
function userOf(token: string | string[] | undefined): string {
  const payload = String(token ?? '').split('.')[1];
  if (payload === undefined) return '';
  const { sub } = JSON.parse(Buffer.from(payload, 'base64url').toString('utf8')) as { sub?: string };
  return ` for ${sub}`;
}
