// The service `web`: forwards every request to `orders`, in plain HTTP to a configured address, and logs everything
// that it gets, tokens included. It is the careless app that the layers in front of it, behind it and around it
// protect. Its tools for assistants (/mcp, Model Context Protocol) are for everyone who asks.

import { createServer } from 'node:http';

const ordersUrl = process.env['ORDERS_URL'] ?? 'http://127.0.0.1:15002';

const tools = ['list_orders', 'delete_order'].map((name) => ({ name, inputSchema: { type: 'object' } }));

async function useTool(name: unknown): Promise<string> {
  const [method, path] = name === 'delete_order' ? ['DELETE', '/orders/3'] : ['GET', '/orders'];
  return (await fetch(ordersUrl + path, { method })).text();
}

createServer(async (request, response) => {
  process.stdout.write(`${JSON.stringify({ method: request.method, url: request.url, ...request.headers })}\n`);
  if (request.url === '/help') {
    // The same for all: the gateway may store it, although each request has a token.
    response.writeHead(200, { 'content-type': 'text/plain', 'cache-control': 'public, max-age=60' });
    response.end('ask the clerks\n');
    return;
  }
  if (request.url === '/mcp') {
    let body = '';
    for await (const piece of request.setEncoding('utf8')) body += piece;
    const { id, method, params } = JSON.parse(body);
    const result =
      method === 'tools/list' ? { tools } : { content: [{ type: 'text', text: await useTool(params?.name) }] };
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ jsonrpc: '2.0', id, result }));
    return;
  }
  try {
    const answer = await fetch(`${ordersUrl}${request.url}`, { method: request.method ?? 'GET' });
    response.writeHead(answer.status, { 'content-type': 'text/plain' }).end(await answer.text());
  } catch {
    response.writeHead(502, { 'content-type': 'text/plain' }).end('orders does not respond\n');
  }
}).listen(Number(process.env['PORT'] ?? 8082), '127.0.0.1');
