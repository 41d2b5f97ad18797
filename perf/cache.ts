// A hit of the cache beside a hit of nginx's proxy_cache: CPU time per request over TLS 1.3, in turns. nginx keeps its
// bodies in files, which the kernel holds in memory.
//
//   npm run perf:cache

import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { freePort } from '../test/fixtures/process.ts';
import { askInTurn, askOn, failLoudly } from './load-http1.ts';
import { commandOf, here } from './ours.ts';
import { type Running, startRunning, whenListening } from './process.ts';
import { openSite } from './site.ts';
import { placeFor, type Site } from './stack.ts';
import { spreadOf } from './statistics.ts';

const rounds = 41;
const perSlice = 2000;
const inFlight = 32;
const urls = 1000;
const sizes = [1000, 10_000] as const;

/** An app whose responses may be stored for an hour. */
async function startApp(): Promise<{ readonly port: number; readonly asked: () => number; close(): void }> {
  let asked = 0;
  const server = createServer((request, answer) => {
    asked++;
    const size = Number(new URL(request.url!, 'http://x').searchParams.get('size'));
    const headers = { 'content-type': 'application/json', 'cache-control': 'public, max-age=3600', etag: '"v1"' };
    answer.writeHead(200, { ...headers, 'content-length': String(size) }).end('x'.repeat(size));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { port: (server.address() as AddressInfo).port, asked: () => asked, close: () => void server.close() };
}

interface CacheStack {
  readonly name: string;
  readonly port: number;
  readonly running: Running;
}

async function startOurs(site: Site, app: number): Promise<CacheStack> {
  const dir = placeFor(site, 'cache-ours');
  const port = await freePort();
  writeFileSync(join(dir, 'server.pem'), site.server.chainPem);
  writeFileSync(join(dir, 'server.key'), site.server.keyPem, { mode: 0o600 });
  writeFileSync(join(dir, 'bundle.pem'), site.caPem);
  mkdirSync(join(dir, 'documents'));
  const group = 'gateway.networking.k8s.io';
  const documents = [
    {
      ...{ apiVersion: `${group}/v1`, kind: 'Gateway', metadata: { name: 'g' } },
      spec: {
        gatewayClassName: 'sallyport',
        listeners: [{ name: 'https', port: 443, protocol: 'HTTPS', tls: { certificateRefs: [{ name: 'server' }] } }],
      },
    },
    {
      ...{ apiVersion: `${group}/v1`, kind: 'HTTPRoute', metadata: { name: 'r' } },
      spec: { parentRefs: [{ name: 'g' }], rules: [{ backendRefs: [{ name: 'app', port: 80 }] }] },
    },
    {
      ...{ apiVersion: 'sallyport.dev/v1alpha1', kind: 'HTTPCache', metadata: { name: 'c' } },
      spec: { targetRefs: [{ group, kind: 'HTTPRoute', name: 'r' }] },
    },
  ];
  writeFileSync(join(dir, 'documents', 'all.yaml'), documents.map((one) => JSON.stringify(one)).join('\n---\n'));
  writeFileSync(
    join(dir, 'gateway.yaml'),
    `trustDomain: perf.test
workload: { namespace: shop, serviceAccount: server }
identity: { files: { svid: server.pem, key: server.key, bundle: bundle.pem } }
accessLog: access.log
documents: documents
listeners: { default/g:443: "127.0.0.1:${port}" }
certificates: { default/server: { certificate: server.pem, key: server.key } }
upstreams: { app: { endpoints: ["127.0.0.1:${app}"] } }
backends: { default/app:80: app }
`,
  );
  process.env['SALLYPORT_LOG_LEVEL'] = 'error';
  const running = startRunning(
    process.execPath,
    [...commandOf(here), 'gateway', '--config', join(dir, 'gateway.yaml')],
    dir,
  );
  await whenListening(port, 20_000);
  return { name: 'sallyport', port, running };
}

async function startNginx(site: Site, app: number): Promise<CacheStack> {
  const dir = placeFor(site, 'cache-nginx');
  const port = await freePort();
  writeFileSync(join(dir, 'server.pem'), site.server.chainPem);
  writeFileSync(join(dir, 'server.key'), site.server.keyPem, { mode: 0o600 });
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${dir}/${kind};`)
    .join(' ');
  writeFileSync(
    join(dir, 'nginx.conf'),
    `${process.getuid?.() === 0 ? 'user root; ' : ''}worker_processes 1; daemon off; pid ${dir}/nginx.pid; error_log ${dir}/nginx.err;
events { worker_connections 4096; }
http {
  log_format json escape=json '{"start_time":"$time_iso8601","method":"$request_method","path":"$request_uri","protocol":"$server_protocol","response_code":$status,"bytes_received":$request_length,"bytes_sent":$body_bytes_sent,"duration":$request_time,"upstream_service_time":"$upstream_response_time","x_forwarded_for":"$http_x_forwarded_for","user_agent":"$http_user_agent","request_id":"$request_id","authority":"$http_host","upstream_host":"$upstream_addr","downstream_local_address":"$server_addr:$server_port","downstream_remote_address":"$remote_addr:$remote_port","requested_server_name":"$ssl_server_name","tls_version":"$ssl_protocol","cache":"$upstream_cache_status"}';
  access_log ${dir}/access.log json buffer=256k flush=1s; keepalive_requests 100000000; ${temporary}
  proxy_cache_path ${dir}/store keys_zone=c:10m max_size=64m use_temp_path=off;
  upstream app { server 127.0.0.1:${app}; keepalive 512; }
  server { listen 127.0.0.1:${port} ssl; ssl_certificate ${dir}/server.pem; ssl_certificate_key ${dir}/server.key; ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;
    location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_cache c; proxy_cache_lock on; add_header Cache-Status $upstream_cache_status; } }
}`,
  );
  const running = startRunning('nginx', ['-e', join(dir, 'nginx.err'), '-c', join(dir, 'nginx.conf')], dir);
  await whenListening(port);
  return { name: 'nginx', port, running };
}

const open: Socket[] = [];
const { site, close } = await openSite();
const app = await startApp();
const stacks = [await startOurs(site, app.port), await startNginx(site, app.port)] as const;
try {
  console.log('| cache-hit-cpu-us | sallyport | nginx | ratio | 95 % |');
  console.log('| --- | --- | --- | --- | --- |');
  for (const size of sizes) {
    const loads = await Promise.all(stacks.map(({ port }) => openLoad(port, size)));
    // Each URL is stored before anything is measured.
    for (const load of loads) await load.run(2 * urls, () => {});
    const before = app.asked();
    const spent: number[][] = [[], []];
    for (let round = 0; round < rounds; round++)
      for (const index of round % 2 === 0 ? [0, 1] : [1, 0]) {
        const { cpu } = stacks[index]!.running;
        const from = cpu.readNs();
        await loads[index]!.run(perSlice, () => {});
        // The access log is written every 100 ms.
        await new Promise((resolve) => setTimeout(resolve, 120));
        spent[index]!.push((cpu.readNs() - from) / perSlice / 1000);
      }
    if (app.asked() !== before) throw new Error('the app was asked during the measurement');
    const [ours, nginx] = spent;
    const ratio = spreadOf(ours!.map((one, round) => one / nginx![round]!));
    const cells = [`a hit of ${size} bytes`, spreadOf(ours!).median.toFixed(1), spreadOf(nginx!).median.toFixed(1)];
    console.log(
      `| ${[...cells, ratio.median.toFixed(2), `${ratio.low.toFixed(2)} to ${ratio.high.toFixed(2)}`].join(' | ')} |`,
    );
  }
} finally {
  for (const socket of open) socket.removeAllListeners('end');
  app.close();
  await Promise.all(stacks.map(({ running }) => running.stop()));
  close();
}
process.exit(0);

async function openLoad(port: number, size: number) {
  const questions = Array.from({ length: urls }, (_, n) =>
    Buffer.from(
      `GET /items/${n}?size=${size} HTTP/1.1\r\nHost: api.perf.test\r\nUser-Agent: perf/1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n\r\n`,
    ),
  );
  const sockets = await Promise.all(
    Array.from({ length: inFlight }, async () => {
      const socket = connect({ host: '127.0.0.1', port, ca: site.caPem, servername: 'orders.perf.test' });
      await once(socket, 'secureConnect');
      open.push(socket);
      return failLoudly(socket);
    }),
  );
  return askInTurn(sockets, sockets.map(askOn), (n) => questions[n % urls]!);
}
