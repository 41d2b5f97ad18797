// The service `web`: passes on to `orders` whatever it is asked, in plain HTTP at the address that it was given, and
// writes everything that it gets to its log, tokens and all. It is the careless app that the layers in front of it, behind
// it and around it are for.

import { createServer } from 'node:http';

const ordersUrl = process.env['ORDERS_URL'] ?? 'http://127.0.0.1:15002';

createServer(async (request, response) => {
  process.stdout.write(`${JSON.stringify({ method: request.method, url: request.url, ...request.headers })}\n`);
  try {
    const answer = await fetch(`${ordersUrl}${request.url}`, { method: request.method ?? 'GET' });
    response.writeHead(answer.status, { 'content-type': 'text/plain' }).end(await answer.text());
  } catch {
    response.writeHead(502, { 'content-type': 'text/plain' }).end('orders does not answer\n');
  }
}).listen(Number(process.env['PORT'] ?? 8082), '127.0.0.1');
