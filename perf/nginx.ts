// nginx as Debian packages it: one worker per side, keep-alive on both sides, mutual TLS 1.3 without resumption.

import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort } from '../test/fixtures/process.ts';
import { startRunning, whenListening } from './process.ts';
import { placeFor, type Site, type Stack } from './stack.ts';

const streamModule = '/usr/lib/nginx/modules/ngx_stream_module.so';

/** True if it can proxy TCP. */
export function hasStream(): boolean {
  return existsSync(streamModule);
}

/** Istio's log keys, as far as nginx has the values. */
const logFormat = `log_format json escape=json '{"start_time":"$time_iso8601","method":"$request_method","path":"$request_uri","protocol":"$server_protocol",'
  '"response_code":$status,"bytes_received":$request_length,"bytes_sent":$body_bytes_sent,"duration":$request_time,"upstream_service_time":"$upstream_response_time",'
  '"x_forwarded_for":"$http_x_forwarded_for","user_agent":"$http_user_agent","request_id":"$request_id","authority":"$http_host","upstream_host":"$upstream_addr",'
  '"downstream_local_address":"$server_addr:$server_port","downstream_remote_address":"$remote_addr:$remote_port","requested_server_name":"$ssl_server_name",'
  '"peer_id":"$ssl_client_s_dn","peer_serial":"$ssl_client_serial","tls_version":"$ssl_protocol"}';`;

/** Starts both sides. */
export async function startNginx(site: Site): Promise<Stack> {
  const [httpPort, tlsPort, tcpIn, tlsTcpPort] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
  const dir = placeFor(site, 'nginx');
  writeFileSync(join(dir, 'client.pem'), site.client.chainPem);
  writeFileSync(join(dir, 'client.key'), site.client.keyPem, { mode: 0o600 });
  writeFileSync(join(dir, 'server.pem'), site.server.chainPem);
  writeFileSync(join(dir, 'server.key'), site.server.keyPem, { mode: 0o600 });
  writeFileSync(join(dir, 'ca.pem'), site.caPem);
  const stream = hasStream();
  const frame = (name: string, http: string, tcp: string): string => `
${stream ? `load_module ${streamModule};` : ''}
worker_processes 1; daemon off; pid ${dir}/${name}.pid; error_log ${dir}/${name}.err;
events { worker_connections 4096; }
http { ${logFormat} access_log ${dir}/${name}.log json buffer=256k flush=1s; keepalive_requests 100000000; map_hash_bucket_size 128; map $http_upgrade $connection_upgrade { default upgrade; '' ''; } ${temporary(dir, name)} ${http} }
${stream ? `stream { ${tcp} }` : ''}`;
  const toServer = `ssl_certificate ${dir}/client.pem; P_ssl_certificate_key ${dir}/client.key; P_ssl_trusted_certificate ${dir}/ca.pem; P_ssl_verify on; P_ssl_verify_depth 3; P_ssl_name orders.perf.test; P_ssl_protocols TLSv1.3; P_ssl_session_reuse off;`;
  const outTls = `proxy_${toServer}`.replaceAll('P_', 'proxy_');
  const inTls = `ssl_certificate ${dir}/server.pem; ssl_certificate_key ${dir}/server.key; ssl_client_certificate ${dir}/ca.pem; ssl_verify_client on; ssl_verify_depth 3; ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;`;
  const keepAlive = (port: number): string => `server 127.0.0.1:${port}; keepalive 512; keepalive_requests 100000000;`;
  const proxy =
    'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; proxy_set_header Host $host; proxy_set_header X-Request-Id $request_id;';
  const allowed = site.allowed.map((one) => `${one} 1;`).join(' ');
  writeFileSync(
    join(dir, 'out.conf'),
    frame(
      'out',
      `upstream next { ${keepAlive(tlsPort)} } server { listen 127.0.0.1:${httpPort}; location / { proxy_pass https://next; ${proxy} ${outTls} } }`,
      `server { listen 127.0.0.1:${tcpIn}; proxy_half_close on; proxy_pass 127.0.0.1:${tlsTcpPort}; proxy_ssl on; ${outTls} }`,
    ),
  );
  writeFileSync(
    join(dir, 'in.conf'),
    frame(
      'in',
      `map $ssl_client_fingerprint $permitted { default 0; ${allowed} } upstream app { ${keepAlive(site.app.http)} }
       server { listen 127.0.0.1:${tlsPort} ssl; ${inTls} if ($permitted = 0) { return 403; }
       location / { proxy_pass http://app; ${proxy} proxy_set_header X-Forwarded-Client-Cert "Hash=$ssl_client_fingerprint;Subject=\\"$ssl_client_s_dn\\""; } }`,
      `server { listen 127.0.0.1:${tlsTcpPort} ssl; ${inTls} proxy_half_close on; proxy_pass 127.0.0.1:${site.app.tcp}; }`,
    ),
  );
  const start = (name: string): ReturnType<typeof startRunning> =>
    startRunning('nginx', ['-e', join(dir, `${name}.err`), '-c', join(dir, `${name}.conf`)], dir);
  const stack = {
    name: 'nginx',
    inbound: start('in'),
    outbound: start('out'),
    httpPort,
    // It speaks HTTP/2 to clients and HTTP/1.1 to upstreams.
    http2Port: undefined,
    tlsPort,
    tcpPort: stream ? tcpIn : undefined,
  };
  await Promise.all([httpPort, tlsPort].map((port) => whenListening(port)));
  return stack;
}

function temporary(dir: string, name: string): string {
  return ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${dir}/${name}-${kind};`)
    .join(' ');
}
