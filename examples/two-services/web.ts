// The service `web`: a page that shows the orders. It asks for them in plain HTTP at the address that it was given, which
// is its sidecar's; who it is and whom it may ask is not its business.

import { createServer } from 'node:http';

const ordersUrl = process.env['ORDERS_URL'] ?? 'http://127.0.0.1:15002';

createServer(async (_request, response) => {
  try {
    const answer = await fetch(`${ordersUrl}/orders`);
    const text = answer.ok
      ? `orders: ${Object.values((await answer.json()) as Record<string, string>).join(', ')}`
      : 'the orders are not for us';
    response.writeHead(answer.status, { 'content-type': 'text/plain' }).end(`${text}\n`);
  } catch {
    response.writeHead(502, { 'content-type': 'text/plain' }).end('orders does not answer\n');
  }
}).listen(Number(process.env['PORT'] ?? 8082), '127.0.0.1');
