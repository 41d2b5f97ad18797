// Compares gateways: TLS in, routing by path over 1, 100 and 1,000 routes, plain HTTP to the app, an access log with
// the same fields, a request ID. One process with one thread each.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { freePort } from '../test/fixtures/process.ts';
import { type Bench, checkoutsOf } from './bench.ts';
import { routePath } from './load-edge.ts';
import { commandOf } from './ours.ts';
import { type Running, startRunning, whenListening } from './process.ts';
import { type Checkout, placeFor, type Site } from './stack.ts';

export interface EdgeStack {
  readonly name: string;
  readonly running: Running;
  /** TLS; no token is required. */
  readonly port: number;
  /** TLS; a token is verified. Ours only: Debian's nginx and HAProxy cannot verify one against a JWKS. */
  readonly tokenPort: number | undefined;
  /** TLS; a rate limit per client, which no client reaches. */
  readonly limitPort: number | undefined;
}

export interface Tokens {
  readonly jwks: string;
  readonly tokens: readonly string[];
}

/** Tokens of users, from one issuer, valid for an hour. */
export async function makeTokens(count: number): Promise<Tokens> {
  const { publicKey, privateKey } = await generateKeyPair('ES256', { extractable: true });
  const key = { ...(await exportJWK(publicKey)), kid: 'k', alg: 'ES256', use: 'sig' };
  const sign = (n: number): Promise<string> =>
    new SignJWT({ groups: ['clerks', 'readers'], email: `user-${n}@perf.test` })
      .setProtectedHeader({ alg: 'ES256', kid: 'k' })
      .setIssuer('https://issuer.perf.test')
      .setSubject(`user-${n}`)
      .setIssuedAt()
      .setExpirationTime('1h')
      .sign(privateKey);
  const tokens: string[] = [];
  for (let n = 0; n < count; n++) tokens.push(await sign(n));
  return { jwks: JSON.stringify({ keys: [key] }), tokens };
}

/** Starts every gateway of the bench with `routes` routes, runs `use`, and stops them. */
export async function withEdges(
  bench: Bench,
  routes: number,
  tokens: Tokens,
  use: (stacks: readonly EdgeStack[]) => Promise<void>,
): Promise<void> {
  const { site, peers } = bench;
  const stacks: EdgeStack[] = [];
  try {
    for (const checkout of checkoutsOf(bench)) stacks.push(await startOurEdge(site, routes, tokens, checkout));
    if (peers.has('nginx')) stacks.push(await startNginxEdge(site, routes));
    if (peers.has('haproxy')) stacks.push(await startHaproxyEdge(site, routes));
    if (peers.has('envoy')) stacks.push(await startEnvoyEdge(site, routes));
    await use(stacks);
  } finally {
    await Promise.all(stacks.map(({ running }) => running.stop()));
  }
}

function edgePlaceFor(site: Site, name: string): string {
  const dir = placeFor(site, `edge-${name}`);
  writeFileSync(join(dir, 'server.pem'), site.server.chainPem);
  writeFileSync(join(dir, 'server.key'), site.server.keyPem, { mode: 0o600 });
  writeFileSync(join(dir, 'both.pem'), site.server.chainPem + site.server.keyPem, { mode: 0o600 });
  return dir;
}

async function startOurEdge(site: Site, routes: number, { jwks }: Tokens, checkout: Checkout): Promise<EdgeStack> {
  const { name, root } = checkout;
  const dir = edgePlaceFor(site, name);
  const [port, tokenPort, limitPort] = await Promise.all([freePort(), freePort(), freePort()]);
  mkdirSync(join(dir, 'documents'));
  writeFileSync(join(dir, 'bundle.pem'), site.caPem);
  const listener = (gateway: string): object => ({
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'Gateway',
    metadata: { name: gateway },
    spec: {
      gatewayClassName: 'sallyport',
      listeners: [{ name: 'https', port: 443, protocol: 'HTTPS', tls: { certificateRefs: [{ name: 'server' }] } }],
    },
  });
  const parents = ['plain', 'token', 'limit'];
  // A route has at most sixteen rules.
  const documents = Array.from({ length: Math.ceil(routes / 16) }, (_, n) => ({
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'HTTPRoute',
    metadata: { name: `routes-${n}` },
    spec: {
      parentRefs: parents.map((name) => ({ name })),
      rules: Array.from({ length: Math.min(16, routes - n * 16) }, (_, i) => ({
        matches: [{ path: { type: 'PathPrefix', value: routePath(n * 16 + i) } }],
        backendRefs: [{ name: 'app', port: 80 }],
      })),
    },
  }));
  const policies = [
    {
      apiVersion: 'gateway.envoyproxy.io/v1alpha1',
      kind: 'SecurityPolicy',
      metadata: { name: 'users' },
      spec: {
        targetRefs: [{ group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'token' }],
        jwt: { providers: [{ name: 'users', issuer: 'https://issuer.perf.test', localJWKS: { inline: jwks } }] },
      },
    },
    {
      apiVersion: 'gateway.envoyproxy.io/v1alpha1',
      kind: 'BackendTrafficPolicy',
      metadata: { name: 'limits' },
      spec: {
        targetRefs: [{ group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'limit' }],
        rateLimit: {
          type: 'Local',
          local: {
            rules: [
              {
                clientSelectors: [{ sourceCIDR: { type: 'Distinct', value: '0.0.0.0/0' } }],
                limit: { requests: 100_000_000, unit: 'Second' },
              },
            ],
          },
        },
      },
    },
  ];
  const all = [...parents.map(listener), ...documents, ...policies].map((one) => JSON.stringify(one)).join('\n---\n');
  writeFileSync(join(dir, 'documents', 'all.yaml'), all);
  writeFileSync(
    join(dir, 'gateway.yaml'),
    `trustDomain: perf.test
workload: { namespace: shop, serviceAccount: server }
identity: { files: { svid: server.pem, key: server.key, bundle: bundle.pem } }
accessLog: access.log
documents: documents
listeners: { default/plain:443: "127.0.0.1:${port}", default/token:443: "127.0.0.1:${tokenPort}", default/limit:443: "127.0.0.1:${limitPort}" }
certificates: { default/server: { certificate: server.pem, key: server.key } }
upstreams: { app: { endpoints: ["127.0.0.1:${site.app.http}"] } }
backends: { default/app:80: app }
`,
  );
  process.env['SALLYPORT_LOG_LEVEL'] = 'error';
  const running = startRunning(
    process.execPath,
    [...commandOf(root), 'gateway', '--config', join(dir, 'gateway.yaml')],
    dir,
  );
  await Promise.all([port, tokenPort, limitPort].map((one) => whenListening(one, 20_000)));
  return { name, running, port, tokenPort, limitPort };
}

async function startNginxEdge(site: Site, routes: number): Promise<EdgeStack> {
  const dir = edgePlaceFor(site, 'nginx');
  const [port, limitPort] = await Promise.all([freePort(), freePort()]);
  const proxy =
    'proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Request-Id $request_id; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;';
  const locations = Array.from(
    { length: routes },
    (_, n) => `location = ${routePath(n)} { ${proxy} } location ${routePath(n)}/ { ${proxy} }`,
  ).join('\n');
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${dir}/${kind};`)
    .join(' ');
  const server = (number: number, more: string): string =>
    `server { listen 127.0.0.1:${number} ssl http2; ssl_certificate ${dir}/server.pem; ssl_certificate_key ${dir}/server.key; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets off; ssl_session_cache off; ${more} ${locations} }`;
  writeFileSync(
    join(dir, 'nginx.conf'),
    `worker_processes 1; daemon off; pid ${dir}/nginx.pid; error_log ${dir}/nginx.err;
events { worker_connections 4096; }
http {
  log_format json escape=json '{"start_time":"$time_iso8601","method":"$request_method","path":"$request_uri","protocol":"$server_protocol","response_code":$status,"bytes_received":$request_length,"bytes_sent":$body_bytes_sent,"duration":$request_time,"upstream_service_time":"$upstream_response_time","x_forwarded_for":"$http_x_forwarded_for","user_agent":"$http_user_agent","request_id":"$request_id","authority":"$http_host","upstream_host":"$upstream_addr","downstream_local_address":"$server_addr:$server_port","downstream_remote_address":"$remote_addr:$remote_port","requested_server_name":"$ssl_server_name","tls_version":"$ssl_protocol"}';
  access_log ${dir}/access.log json buffer=256k flush=1s; keepalive_requests 100000000; ${temporary}
  limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;
  upstream app { server 127.0.0.1:${site.app.http}; keepalive 512; keepalive_requests 100000000; }
  ${server(port, '')}
  ${server(limitPort, 'limit_req zone=clients burst=1000000 nodelay;')}
}`,
  );
  const running = startRunning('nginx', ['-e', join(dir, 'nginx.err'), '-c', join(dir, 'nginx.conf')], dir);
  await Promise.all([port, limitPort].map((one) => whenListening(one)));
  return { name: 'nginx', running, port, tokenPort: undefined, limitPort };
}

async function startHaproxyEdge(site: Site, routes: number): Promise<EdgeStack> {
  const dir = edgePlaceFor(site, 'haproxy');
  const [port, limitPort] = await Promise.all([freePort(), freePort()]);
  writeFileSync(
    join(dir, 'routes.map'),
    `${Array.from({ length: routes }, (_, n) => `${routePath(n)}/ app${n}`).join('\n')}\n`,
  );
  const bind = (number: number): string => `bind 127.0.0.1:${number} ssl crt ${dir}/both.pem alpn h2,http/1.1`;
  const rest = `mode http
  option httplog
  unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header X-Request-Id
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto https
  use_backend %[path,map_beg(${dir}/routes.map)]`;
  const backends = Array.from(
    { length: routes },
    (_, n) => `backend app${n}\n  mode http\n  server a 127.0.0.1:${site.app.http}`,
  ).join('\n');
  writeFileSync(
    join(dir, 'haproxy.cfg'),
    `global
  nbthread 1
  maxconn 8000
  log 127.0.0.1:${site.app.log} len 2048 local0
  ssl-default-bind-options no-tls-tickets
  tune.ssl.cachesize 0
defaults
  log global
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend edge
  ${bind(port)}
  ${rest}
frontend limited
  ${bind(limitPort)}
  stick-table type ip size 100k expire 10s store http_req_rate(1s)
  http-request track-sc0 src
  http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1000000 }
  ${rest}
${backends}
`,
  );
  const running = startRunning('haproxy', ['-q', '-db', '-f', join(dir, 'haproxy.cfg')], dir);
  await Promise.all([port, limitPort].map((one) => whenListening(one)));
  return { name: 'haproxy', running, port, tokenPort: undefined, limitPort };
}

async function startEnvoyEdge(site: Site, routes: number): Promise<EdgeStack> {
  const dir = edgePlaceFor(site, 'envoy');
  const port = await freePort();
  const api = 'type.googleapis.com/envoy.extensions';
  const typed = (name: string, type: string, rest: object = {}): object => ({
    name,
    typed_config: { '@type': `${api}.${type}`, ...rest },
  });
  const log = Object.fromEntries(
    [
      ...['START_TIME', 'PROTOCOL', 'RESPONSE_CODE', 'RESPONSE_FLAGS', 'RESPONSE_CODE_DETAILS', 'BYTES_RECEIVED'],
      ...['BYTES_SENT', 'DURATION', 'UPSTREAM_HOST', 'UPSTREAM_CLUSTER', 'DOWNSTREAM_REMOTE_ADDRESS', 'ROUTE_NAME'],
      ...['REQ(:METHOD)', 'REQ(:PATH)', 'REQ(USER-AGENT)', 'REQ(X-REQUEST-ID)', 'REQ(:AUTHORITY)'],
    ].map((one) => [one.toLowerCase().replace(/\W/g, '_'), `%${one}%`]),
  );
  const config = {
    static_resources: {
      listeners: [
        {
          address: { socket_address: { address: '127.0.0.1', port_value: port } },
          filter_chains: [
            {
              transport_socket: typed('tls', 'transport_sockets.tls.v3.DownstreamTlsContext', {
                common_tls_context: {
                  alpn_protocols: ['h2', 'http/1.1'],
                  tls_certificates: [
                    {
                      certificate_chain: { filename: join(dir, 'server.pem') },
                      private_key: { filename: join(dir, 'server.key') },
                    },
                  ],
                },
                disable_stateless_session_resumption: true,
              }),
              filters: [
                typed('hcm', 'filters.network.http_connection_manager.v3.HttpConnectionManager', {
                  stat_prefix: 'edge',
                  use_remote_address: true,
                  access_log: [
                    typed('file', 'access_loggers.file.v3.FileAccessLog', {
                      path: join(dir, 'access.log'),
                      log_format: { json_format: log },
                    }),
                  ],
                  route_config: {
                    virtual_hosts: [
                      {
                        name: 'all',
                        domains: ['*'],
                        routes: Array.from({ length: routes }, (_, n) => ({
                          match: { path_separated_prefix: routePath(n) },
                          route: { cluster: 'app' },
                        })),
                      },
                    ],
                  },
                  http_filters: [typed('envoy.filters.http.router', 'filters.http.router.v3.Router')],
                }),
              ],
            },
          ],
        },
      ],
      clusters: [
        {
          name: 'app',
          type: 'STATIC',
          load_assignment: {
            cluster_name: 'app',
            endpoints: [
              {
                lb_endpoints: [
                  { endpoint: { address: { socket_address: { address: '127.0.0.1', port_value: site.app.http } } } },
                ],
              },
            ],
          },
          circuit_breakers: { thresholds: [{ max_connections: 8000, max_requests: 8000, max_pending_requests: 8000 }] },
        },
      ],
    },
  };
  writeFileSync(join(dir, 'envoy.json'), JSON.stringify(config));
  const base = 40_000 + ((process.pid + routes) % 20_000);
  const running = startRunning(
    'envoy',
    ['-c', join(dir, 'envoy.json'), '--concurrency', '1', '--base-id', String(base), '-l', 'error'],
    dir,
  );
  await whenListening(port);
  return { name: 'envoy', running, port, tokenPort: undefined, limitPort: undefined };
}
