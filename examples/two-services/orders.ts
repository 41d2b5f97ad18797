// The service `orders`: a list in memory behind plain HTTP on loopback. It knows nothing about certificates and
// executes every request: only the policy says who may DELETE.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

const orders = new Map([
  [1, 'a lantern'],
  [2, 'forty feet of rope'],
  [3, 'a boat hook'],
]);
let last = orders.size;

createServer((request, response) => {
  const id = Number(/^\/orders\/(\d+)$/.exec(request.url ?? '')?.[1]);
  if (request.url === '/orders' && request.method === 'GET') return answer(response, 200, Object.fromEntries(orders));
  if (request.url === '/orders' && request.method === 'POST')
    return void add(request, response).catch(() => response.destroy());
  if (!orders.has(id)) return answer(response, 404, { error: 'no such order' });
  if (request.method === 'DELETE') orders.delete(id);
  return answer(response, 200, { [id]: orders.get(id) ?? 'deleted' });
}).listen(Number(process.env['PORT'] ?? 8081), '127.0.0.1');

async function add(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const text = (await request.toArray()).join('');
  orders.set(++last, text);
  answer(response, 201, { [last]: text });
}

function answer(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`);
}
