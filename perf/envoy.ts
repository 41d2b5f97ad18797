// Envoy, if an `envoy` binary is on PATH: one worker thread per side, mutual TLS 1.3 without resumption, an RBAC filter
// with 100 callers and a JSON access log.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort } from '../test/fixtures/process.ts';
import { startRunning, whenListening } from './process.ts';
import { placeFor, type Site, type Stack } from './stack.ts';

const api = 'type.googleapis.com/envoy.extensions';
const typed = (name: string, type: string, rest: object = {}): object => ({
  name,
  typed_config: { '@type': `${api}.${type}`, ...rest },
});
const router = typed('envoy.filters.http.router', 'filters.http.router.v3.Router');

const logFormat = {
  ...{ start_time: '%START_TIME%', method: '%REQ(:METHOD)%', path: '%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%' },
  ...{ protocol: '%PROTOCOL%', response_code: '%RESPONSE_CODE%', response_flags: '%RESPONSE_FLAGS%' },
  ...{
    response_code_details: '%RESPONSE_CODE_DETAILS%',
    bytes_received: '%BYTES_RECEIVED%',
    bytes_sent: '%BYTES_SENT%',
  },
  ...{ duration: '%DURATION%', user_agent: '%REQ(USER-AGENT)%', request_id: '%REQ(X-REQUEST-ID)%' },
  ...{ authority: '%REQ(:AUTHORITY)%', upstream_host: '%UPSTREAM_HOST%', upstream_cluster: '%UPSTREAM_CLUSTER%' },
  ...{ downstream_remote_address: '%DOWNSTREAM_REMOTE_ADDRESS%', peer_id: '%DOWNSTREAM_PEER_URI_SAN%' },
};

/** Starts both sides. */
export async function startEnvoy(site: Site): Promise<Stack> {
  const [httpPort, http2Port, tlsPort, tlsHttp2Port, tcpPort, tlsTcpPort] = await Promise.all([
    freePort(),
    freePort(),
    freePort(),
    freePort(),
    freePort(),
    freePort(),
  ]);
  const dir = placeFor(site, 'envoy');
  for (const [name, one] of [
    ['client', site.client],
    ['server', site.server],
  ] as const) {
    writeFileSync(join(dir, `${name}.pem`), one.chainPem);
    writeFileSync(join(dir, `${name}.key`), one.keyPem, { mode: 0o600 });
  }
  writeFileSync(join(dir, 'ca.pem'), site.caPem);
  const tls = (who: 'client' | 'server', alpn: string): object => {
    const peer = who === 'client' ? 'server' : 'client';
    const id = `spiffe://perf.test/ns/shop/sa/${peer}`;
    const common = {
      tls_params: { tls_minimum_protocol_version: 'TLSv1_3', tls_maximum_protocol_version: 'TLSv1_3' },
      alpn_protocols: [alpn],
      tls_certificates: [
        {
          certificate_chain: { filename: join(dir, `${who}.pem`) },
          private_key: { filename: join(dir, `${who}.key`) },
        },
      ],
      validation_context: {
        trusted_ca: { filename: join(dir, 'ca.pem') },
        match_typed_subject_alt_names: [{ san_type: 'URI', matcher: { exact: id } }],
      },
    };
    return who === 'client'
      ? typed('tls', 'transport_sockets.tls.v3.UpstreamTlsContext', { common_tls_context: common, max_session_keys: 0 })
      : typed('tls', 'transport_sockets.tls.v3.DownstreamTlsContext', {
          common_tls_context: common,
          require_client_certificate: true,
          disable_stateless_session_resumption: true,
        });
  };
  const cluster = (name: string, port: number, http2: boolean, secure: boolean): object => ({
    name,
    type: 'STATIC',
    load_assignment: {
      cluster_name: name,
      endpoints: [
        { lb_endpoints: [{ endpoint: { address: { socket_address: { address: '127.0.0.1', port_value: port } } } }] },
      ],
    },
    circuit_breakers: { thresholds: [{ max_connections: 8000, max_requests: 8000, max_pending_requests: 8000 }] },
    ...(http2
      ? {
          typed_extension_protocol_options: {
            'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
              '@type': `${api}.upstreams.http.v3.HttpProtocolOptions`,
              explicit_http_config: { http2_protocol_options: {} },
            },
          },
        }
      : {}),
    ...(secure ? { transport_socket: tls('client', http2 ? 'h2' : 'http/1.1') } : {}),
  });
  const callers = Array.from({ length: 100 }, (_, i) => ({
    authenticated: {
      principal_name: { exact: `spiffe://perf.test/ns/shop/sa/${i === 50 ? 'client' : `other-${i}`}` },
    },
  }));
  const rbac = typed('envoy.filters.http.rbac', 'filters.http.rbac.v3.RBAC', {
    rules: {
      policies: {
        callers: {
          principals: [{ or_ids: { ids: callers } }],
          permissions: [{ url_path: { path: { prefix: '/v1/orders/' } } }],
        },
      },
    },
  });
  const http = (port: number, target: string, side: 'out' | 'in', http2: boolean): object => ({
    address: { socket_address: { address: '127.0.0.1', port_value: port } },
    filter_chains: [
      {
        ...(side === 'in' ? { transport_socket: tls('server', http2 ? 'h2' : 'http/1.1') } : {}),
        filters: [
          typed('hcm', 'filters.network.http_connection_manager.v3.HttpConnectionManager', {
            stat_prefix: target,
            codec_type: 'AUTO',
            upgrade_configs: [{ upgrade_type: 'websocket' }],
            forward_client_cert_details: side === 'in' ? 'APPEND_FORWARD' : 'SANITIZE',
            access_log: [
              typed('file', 'access_loggers.file.v3.FileAccessLog', {
                path: join(dir, `${side}.log`),
                log_format: { json_format: logFormat },
              }),
            ],
            route_config: {
              virtual_hosts: [
                { name: 'all', domains: ['*'], routes: [{ match: { prefix: '/' }, route: { cluster: target } }] },
              ],
            },
            http_filters: side === 'in' ? [rbac, router] : [router],
          }),
        ],
      },
    ],
  });
  const tcp = (port: number, target: string, side: 'out' | 'in'): object => ({
    address: { socket_address: { address: '127.0.0.1', port_value: port } },
    filter_chains: [
      {
        ...(side === 'in' ? { transport_socket: tls('server', 'bytes') } : {}),
        filters: [typed('tcp', 'filters.network.tcp_proxy.v3.TcpProxy', { stat_prefix: target, cluster: target })],
      },
    ],
  });
  const config = (listeners: object[], clusters: object[]): string =>
    JSON.stringify({ static_resources: { listeners, clusters } });
  writeFileSync(
    join(dir, 'out.json'),
    config(
      [http(httpPort, 'next', 'out', false), http(http2Port, 'next2', 'out', true), tcp(tcpPort, 'bytes', 'out')],
      [
        cluster('next', tlsPort, false, true),
        cluster('next2', tlsHttp2Port, true, true),
        { ...cluster('bytes', tlsTcpPort, false, true), transport_socket: tls('client', 'bytes') },
      ],
    ),
  );
  writeFileSync(
    join(dir, 'in.json'),
    config(
      [http(tlsPort, 'app', 'in', false), http(tlsHttp2Port, 'app2', 'in', true), tcp(tlsTcpPort, 'sink', 'in')],
      [
        cluster('app', site.app.http, false, false),
        cluster('app2', site.app.http2, true, false),
        cluster('sink', site.app.tcp, false, false),
      ],
    ),
  );
  const start = (name: string, id: number): ReturnType<typeof startRunning> =>
    startRunning(
      'envoy',
      ['-c', join(dir, `${name}.json`), '--concurrency', '1', '--base-id', String(id), '-l', 'error'],
      dir,
    );
  const base = 1000 + (process.pid % 30_000);
  const stack = {
    ...{ name: 'envoy', inbound: start('in', base), outbound: start('out', base + 1) },
    ...{ httpPort, http2Port, tlsPort, tcpPort },
  };
  await Promise.all([httpPort, http2Port, tlsPort, tcpPort].map((port) => whenListening(port)));
  return stack;
}
