// The service `web`: a page that shows the orders. It requests them in plain HTTP from a configured address, which is
// its sidecar's; it knows neither its own identity nor what it may call. It reads the user's name from the gateway's
// transaction token: its sidecar has verified the token, and removes any from other senders.

import { createServer } from 'node:http';

const ordersUrl = process.env['ORDERS_URL'] ?? 'http://127.0.0.1:15002';

createServer(async (request, response) => {
  try {
    const answer = await fetch(`${ordersUrl}/orders`);
    const user = userOf(request.headers['txn-token']);
    const text = answer.ok
      ? `orders${user}: ${Object.values((await answer.json()) as Record<string, string>).join(', ')}`
      : 'not allowed to read the orders';
    response.writeHead(answer.status, { 'content-type': 'text/plain' }).end(`${text}\n`);
  } catch {
    response.writeHead(502, { 'content-type': 'text/plain' }).end('orders does not respond\n');
  }
}).listen(Number(process.env['PORT'] ?? 8082), '127.0.0.1');

/** ` for ada`, or nothing if no gateway has named the user. */
function userOf(token: string | string[] | undefined): string {
  const payload = String(token ?? '').split('.')[1];
  if (payload === undefined) return '';
  const { sub } = JSON.parse(Buffer.from(payload, 'base64url').toString('utf8')) as { sub?: string };
  return ` for ${sub}`;
}
