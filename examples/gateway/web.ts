// The service `web`: forwards every request to `orders`, in plain HTTP to a configured address, and logs everything
// that it gets, tokens included. It is the careless app that the layers in front of it, behind it and around it
// protect.

import { createServer } from 'node:http';

const ordersUrl = process.env['ORDERS_URL'] ?? 'http://127.0.0.1:15002';

createServer(async (request, response) => {
  process.stdout.write(`${JSON.stringify({ method: request.method, url: request.url, ...request.headers })}\n`);
  if (request.url === '/help') {
    // The same for all: the gateway may store it, although each request has a token.
    response.writeHead(200, { 'content-type': 'text/plain', 'cache-control': 'public, max-age=60' });
    response.end('ask the clerks\n');
    return;
  }
  try {
    const answer = await fetch(`${ordersUrl}${request.url}`, { method: request.method ?? 'GET' });
    response.writeHead(answer.status, { 'content-type': 'text/plain' }).end(await answer.text());
  } catch {
    response.writeHead(502, { 'content-type': 'text/plain' }).end('orders does not respond\n');
  }
}).listen(Number(process.env['PORT'] ?? 8082), '127.0.0.1');
