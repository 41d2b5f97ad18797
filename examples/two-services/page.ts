// The page that a browser sees through the gateway: one HTML file, and the demo's tour as it happens, as server-sent
// events. It is an app like the others here: plain HTTP on loopback, unaware of what is in front of it.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';

/** The file in which the demo records what happens; unset: there is no tour to show. */
const tour = process.env['TOUR'];
const pollMs = 100;
/** Proxies on the path close connections that are silent for minutes. */
const pingMs = 15_000;

const html = readFileSync(new URL('./page.html', import.meta.url), 'utf8');

// Only the page's own script and style run; nothing else is loaded.
const contentSecurityPolicy = [
  "default-src 'none'",
  `script-src '${hashOf('script')}'`,
  `style-src '${hashOf('style')}'`,
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** Readers of the events, each with its position in the file. */
const readers = new Map<ServerResponse, number>();

const server = createServer((request, response) => {
  if (request.method !== 'GET') return void response.writeHead(405).end();
  if (request.url === '/events') return follow(response, Number(request.headers['last-event-id'] ?? 0));
  if (request.url !== '/') return void response.writeHead(404).end('not found\n');
  response
    .writeHead(200, {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': contentSecurityPolicy,
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'no-referrer',
    })
    .end(html);
});

server.listen(Number(process.env['PORT'] ?? 8083), '127.0.0.1');

setInterval(sendNews, pollMs);

setInterval(() => {
  for (const response of readers.keys()) response.write(': still here\n\n');
}, pingMs);

/** Open pages get the last events too, and a draining gateway has nothing to wait for. */
for (const signal of ['SIGTERM', 'SIGINT'])
  process.once(signal, () => {
    sendNews();
    for (const response of readers.keys()) response.end();
    server.close(() => process.exit());
    server.closeIdleConnections();
  });

function sendNews(): void {
  if (readers.size === 0) return;
  const events = readEvents();
  for (const [response, at] of readers) send(response, events, at);
}

/** A browser that reconnects says how far it got, and continues from there. */
function follow(response: ServerResponse, at: number): void {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  response.once('close', () => readers.delete(response));
  response.write('retry: 1000\n\n');
  send(response, readEvents(), Number.isInteger(at) ? at : 0);
}

function send(response: ServerResponse, events: readonly string[], at: number): void {
  for (const [i, event] of events.slice(at).entries()) response.write(`id: ${at + i + 1}\ndata: ${event}\n\n`);
  readers.set(response, Math.max(at, events.length));
}

/** Whole lines only: the last one may be incomplete. */
function readEvents(): string[] {
  if (tour === undefined) return [];
  try {
    return readFileSync(tour, 'utf8').split('\n').slice(0, -1);
  } catch {
    return [];
  }
}

function hashOf(tag: 'script' | 'style'): string {
  const [, text = ''] = new RegExp(`<${tag}>(.*)</${tag}>`, 's').exec(html) ?? [];
  return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}
