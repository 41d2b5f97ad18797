// HAProxy as Debian packages it: one thread per side. It logs to a socket only, so its lines go to a UDP sink.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort } from '../test/fixtures/process.ts';
import { startRunning, whenListening } from './process.ts';
import { placeFor, type Site, type Stack } from './stack.ts';

/** Starts both sides. */
export async function startHaproxy(site: Site): Promise<Stack> {
  const [httpPort, http2Port, tlsPort, tlsHttp2Port, tcpPort, tlsTcpPort] = await Promise.all([
    freePort(),
    freePort(),
    freePort(),
    freePort(),
    freePort(),
    freePort(),
  ]);
  const dir = placeFor(site, 'haproxy');
  writeFileSync(join(dir, 'client.pem'), site.client.chainPem + site.client.keyPem, { mode: 0o600 });
  writeFileSync(join(dir, 'server.pem'), site.server.chainPem + site.server.keyPem, { mode: 0o600 });
  writeFileSync(join(dir, 'ca.pem'), site.caPem);
  writeFileSync(join(dir, 'allowed.lst'), `${site.allowed.join('\n')}\n`);
  const frame = `global
  nbthread 1
  maxconn 8000
  log 127.0.0.1:${site.app.log} len 2048 local0
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
  ssl-default-server-options ssl-min-ver TLSv1.3
  tune.ssl.cachesize 0
defaults
  log global
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
  http-reuse always
`;
  const toServer = `ssl crt ${dir}/client.pem ca-file ${dir}/ca.pem verify required verifyhost orders.perf.test no-ssl-reuse`;
  const fromClient = `ssl crt ${dir}/server.pem ca-file ${dir}/ca.pem verify required`;
  writeFileSync(
    join(dir, 'out.cfg'),
    `${frame}
frontend http
  mode http
  option httplog
  bind 127.0.0.1:${httpPort}
  unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header X-Request-Id
  default_backend next
backend next
  mode http
  server b 127.0.0.1:${tlsPort} ${toServer}
frontend http2
  mode http
  option httplog
  bind 127.0.0.1:${http2Port} proto h2
  unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header X-Request-Id
  default_backend next2
backend next2
  mode http
  server b 127.0.0.1:${tlsHttp2Port} ${toServer} alpn h2
listen tcp
  mode tcp
  option tcplog
  bind 127.0.0.1:${tcpPort}
  server b 127.0.0.1:${tlsTcpPort} ${toServer}
`,
  );
  writeFileSync(
    join(dir, 'in.cfg'),
    `${frame}
frontend https
  mode http
  option httplog
  bind 127.0.0.1:${tlsPort} ${fromClient}
  http-request deny unless { ssl_c_sha1,hex,lower -f ${dir}/allowed.lst }
  http-request set-header X-Forwarded-Client-Cert Hash=%[ssl_c_sha1,hex]
  default_backend app
backend app
  mode http
  server a 127.0.0.1:${site.app.http}
frontend https2
  mode http
  option httplog
  bind 127.0.0.1:${tlsHttp2Port} ${fromClient} alpn h2
  http-request deny unless { ssl_c_sha1,hex,lower -f ${dir}/allowed.lst }
  http-request set-header X-Forwarded-Client-Cert Hash=%[ssl_c_sha1,hex]
  default_backend app2
backend app2
  mode http
  server a 127.0.0.1:${site.app.http2} proto h2
listen tcp
  mode tcp
  option tcplog
  bind 127.0.0.1:${tlsTcpPort} ${fromClient}
  server a 127.0.0.1:${site.app.tcp}
`,
  );
  const start = (name: string): ReturnType<typeof startRunning> =>
    startRunning('haproxy', ['-q', '-db', '-f', join(dir, `${name}.cfg`)], dir);
  const stack = {
    ...{ name: 'haproxy', inbound: start('in'), outbound: start('out') },
    ...{ httpPort, http2Port, tlsPort, tcpPort },
  };
  await Promise.all([httpPort, http2Port, tlsPort, tcpPort].map((port) => whenListening(port)));
  return stack;
}
