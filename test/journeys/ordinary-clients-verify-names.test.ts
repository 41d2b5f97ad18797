// Clients that know nothing of SPIFFE verify the CA and a sidecar by name or address, with bundle.pem: curl, as
// Prometheus does, OpenSSL, nginx and HAProxy.

import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { hostname } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import {
  freePort,
  type Owner,
  runSallyport,
  startProcess,
  startSallyport,
  tempDir,
  until,
} from '../fixtures/process.ts';
import { writeSidecars } from '../fixtures/sidecar-process.ts';
import { haveCommand } from '../fixtures/tools.ts';

const without = (name: string): string | false => (haveCommand(name) ? false : `${name} is not installed`);

/** Runs a program to its end without input; not spawnSync, since the app of the sidecar answers in this process. */
function run(command: string, args: readonly string[]): Promise<{ code: number | null; text: string }> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
    child.once('close', (code) => resolve({ code, text }));
  });
}

const curl = (ca: string, ...args: string[]) => run('curl', ['-sS', '--noproxy', '*', '--cacert', ca, ...args]);
/** The host does not match the certificate. */
const refused = { code: 60 };

interface Proxied {
  /** Where the SVID of `web` is. */
  readonly dir: string;
  readonly to: number;
  readonly ca: string;
}

/** nginx that passes requests on to the sidecar, which it knows as `name`; returns its port. */
async function startNginx(t: Owner, { dir, to, ca }: Proxied, name: string): Promise<number> {
  const [place, port] = [tempDir(t), await freePort()];
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (one) => `${one}_temp_path ${place}/${one};`,
  );
  writeFileSync(
    join(place, 'nginx.conf'),
    `daemon off; master_process off; pid ${place}/pid; error_log stderr info; events {}
     http { access_log off; ${temporary.join(' ')}
       server { listen 127.0.0.1:${port}; location / {
         proxy_pass https://127.0.0.1:${to}; proxy_http_version 1.1; proxy_set_header Host orders;
         proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; proxy_ssl_verify_depth 2;
         proxy_ssl_trusted_certificate ${ca}; proxy_ssl_name ${name};
         proxy_ssl_certificate ${dir}/web/svid.pem; proxy_ssl_certificate_key ${dir}/web/svid.key; } } }`,
  );
  startProcess(t, 'nginx', ['-p', place, '-c', join(place, 'nginx.conf')]);
  return port;
}

/** The same with HAProxy. */
async function startHaproxy(t: Owner, { dir, to, ca }: Proxied, name: string): Promise<number> {
  const [place, port] = [tempDir(t), await freePort()];
  const web = ['svid.pem', 'svid.key'].map((file) => readFileSync(join(dir, 'web', file), 'utf8'));
  writeFileSync(join(place, 'web.pem'), web.join(''), { mode: 0o600 });
  writeFileSync(
    join(place, 'haproxy.cfg'),
    `defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend in
  bind 127.0.0.1:${port}
  default_backend orders
backend orders
  server orders 127.0.0.1:${to} ssl verify required ca-file ${ca} verifyhost ${name} crt ${place}/web.pem
`,
  );
  startProcess(t, 'haproxy', ['-f', join(place, 'haproxy.cfg')]);
  return port;
}

/** A Java program that verifies as JDBC drivers do: chain and host name, by the JDK's own trust manager. */
const javaClient = `
import java.io.*; import java.net.*; import java.nio.file.*; import java.security.*; import java.security.cert.*; import javax.net.ssl.*;
public class Client {
  public static void main(String[] a) throws Exception {
    KeyStore trust = KeyStore.getInstance("PKCS12"); trust.load(null, null);
    int n = 0;
    for (java.security.cert.Certificate one : CertificateFactory.getInstance("X.509").generateCertificates(Files.newInputStream(Path.of(a[0]))))
      trust.setCertificateEntry("root" + n++, one);
    TrustManagerFactory trusted = TrustManagerFactory.getInstance("PKIX"); trusted.init(trust);
    KeyStore own = KeyStore.getInstance("PKCS12"); own.load(Files.newInputStream(Path.of(a[1])), "x".toCharArray());
    KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX"); keys.init(own, "x".toCharArray());
    SSLContext context = SSLContext.getInstance("TLSv1.3"); context.init(keys.getKeyManagers(), trusted.getTrustManagers(), null);
    SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(new Socket("127.0.0.1", Integer.parseInt(a[2])), a[3], Integer.parseInt(a[2]), true);
    SSLParameters wanted = socket.getSSLParameters(); wanted.setEndpointIdentificationAlgorithm("HTTPS"); socket.setSSLParameters(wanted);
    socket.startHandshake();
    socket.getOutputStream().write(("GET / HTTP/1.1\\r\\nhost: " + a[3] + "\\r\\nconnection: close\\r\\n\\r\\n").getBytes());
    socket.getInputStream().transferTo(System.out);
  }
}
`;

/** Undefined while nothing listens. */
async function status(port: number): Promise<number | undefined> {
  const answer = await fetch(`http://127.0.0.1:${port}/`).catch(() => undefined);
  await answer?.body?.cancel();
  return answer?.status;
}

t.test('curl verifies the CA by the names and addresses on which it listens', { skip: without('curl') }, async (t) => {
  const ca = await makeCa(t);
  const first = await ca.serve();
  const port = new URL(ca.url).port;
  t.match(await curl(ca.bundleFile, `${ca.url}/metrics`), { code: 0, text: /^# HELP / });
  t.match(await curl(ca.bundleFile, `https://localhost:${port}/healthz`), { code: 0, text: /"status":"ok"/ });
  const to = (name: string, at: string): string[] => [
    '--resolve',
    `${name}:${at}:127.0.0.1`,
    `https://${name}:${at}/healthz`,
  ];
  t.match(await curl(ca.bundleFile, ...to('ca.shop.test', port)), refused);
  t.equal(await first.stop(), 0);

  const other = String(await freePort());
  const names = ['--name', 'ca.shop.test', '--name', '10.9.8.7'];
  const again = startSallyport(t, ['ca', 'serve', '--dir', ca.directory, '--listen', `:${other}`, ...names]);
  await again.waitFor(/"code":"listening"/);
  const hosts = ['ca.shop.test', 'localhost', '127.0.0.1', '10.9.8.7'];
  if (/^[a-z0-9-]+$/.test(hostname())) hosts.push(hostname());
  for (const host of hosts) {
    const target = /^[\d.]+$/.test(host)
      ? ['--connect-to', `${host}:${other}:127.0.0.1:${other}`, `https://${host}:${other}/healthz`]
      : to(host, other);
    t.match(await curl(ca.bundleFile, ...target), { code: 0, text: /"status":"ok"/ }, host);
  }
  t.match(await curl(ca.bundleFile, ...to('other.shop.test', other)), refused);
});

t.test('Prometheus scrapes the CA', { skip: without('prometheus') }, async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const [place, port] = [tempDir(t), await freePort()];
  const target = new URL(ca.url).host;
  writeFileSync(
    join(place, 'prometheus.yml'),
    `scrape_configs:
  - job_name: ca
    scheme: https
    scrape_interval: 1s
    tls_config: { ca_file: ${ca.bundleFile} }
    static_configs: [{ targets: ['${target}'] }]
`,
  );
  const own = [`--config.file=${place}/prometheus.yml`, `--storage.tsdb.path=${place}/data`];
  startProcess(t, 'prometheus', [...own, `--web.listen-address=127.0.0.1:${port}`]);
  const query = `http://127.0.0.1:${port}/api/v1/query?query=sallyport_ca_agents_connected`;
  const found = await until(async () => {
    const answer = await fetch(query).catch(() => undefined);
    const { data } = ((await answer?.json()) ?? {}) as { data?: { result: { metric: { instance: string } }[] } };
    return data !== undefined && data.result.length > 0 && data.result;
  }, 'a scrape');
  t.match(found, [{ metric: { instance: target } }]);
});

t.test('a sidecar is verified by the DNS name of its token', { skip: without('openssl') }, async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const files = await writeSidecars(t, ca);
  const app = createServer((_request, response) => response.end('two orders'));
  await new Promise<void>((resolve) => app.listen(files.appPort, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  const orders = 'spiffe://demo.test/ns/shop/sa/orders';
  const name = 'orders.shop.test';
  const create = ['ca', 'token', 'create', '--dir', ca.directory, '--spiffe-id', orders, '--dns', name];
  t.match(await runSallyport(t, create), { code: 1, stderr: /\[dns_name_not_allowed\]\nhint: sallyport ca dns allow/ });
  const allowed = await runSallyport(t, ['ca', 'dns', 'allow', '--dir', ca.directory, '*.shop.test']);
  t.match(allowed, { code: 0, stdout: 'allowed *.shop.test\n' });
  await ca.writeToken(orders, files.token.orders, [name]);
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/web', files.token.web);
  const [one, two] = [files.start('orders'), files.start('web')];
  await Promise.all([one.waitFor(/"code":"ready"/), two.waitFor(/"code":"ready"/)]);

  const web = ['-cert', join(files.dir, 'web', 'svid.pem'), '-key', join(files.dir, 'web', 'svid.key')];
  const client = [
    's_client',
    '-connect',
    `127.0.0.1:${files.inPort}`,
    '-CAfile',
    ca.bundleFile,
    '-verify_return_error',
  ];
  const verified = await run('openssl', [...client, ...web, '-verify_hostname', 'orders.shop.test']);
  t.match(verified.text, /Verification: OK\nVerified peername: orders\.shop\.test\n/);
  const wrong = await run('openssl', [...client, ...web, '-verify_hostname', 'web.shop.test']);
  t.match(wrong.text, /verify error:num=62:hostname mismatch/);
  t.not(wrong.code, 0);

  if (haveCommand('curl')) {
    const resolve = ['--resolve', `orders.shop.test:${files.inPort}:127.0.0.1`];
    const request = [...resolve, `https://orders.shop.test:${files.inPort}/`];
    const svid = ['--cert', web[1]!, '--key', web[3]!];
    t.match(await curl(ca.bundleFile, ...svid, ...request), { code: 0, text: 'two orders' });
    const stranger = await curl(ca.bundleFile, ...request);
    t.not(stranger.code, 0, 'the sidecar still requires the SPIFFE ID of its peer');
    t.notMatch(stranger.text, 'two orders');
  }
  await t.test('Java verifies it as a JDBC driver does', { skip: without('java') }, async (t) => {
    const place = tempDir(t);
    const [source, store] = [join(place, 'Client.java'), join(place, 'web.p12')];
    writeFileSync(source, javaClient);
    const pair = ['-in', web[1]!, '-inkey', web[3]!];
    t.match(await run('openssl', ['pkcs12', '-export', ...pair, '-out', store, '-passout', 'pass:x']), { code: 0 });
    const java = (name: string) => run('java', [source, ca.bundleFile, store, String(files.inPort), name]);
    t.match(await java('orders.shop.test'), { code: 0, text: /two orders$/ });
    t.match(await java('web.shop.test'), { code: 1, text: /No subject alternative DNS name matching web\.shop\.test/ });
  });
  for (const [name, proxy] of Object.entries({ nginx: startNginx, haproxy: startHaproxy }))
    await t.test(`${name} works in front of it`, { skip: without(name) }, async (t) => {
      const own = { dir: files.dir, to: files.inPort, ca: ca.bundleFile };
      const [good, bad] = [await proxy(t, own, 'orders.shop.test'), await proxy(t, own, 'web.shop.test')];
      const answer = await until(async () => (await status(good)) ?? false, name, 10_000);
      t.equal(answer, 200);
      t.match(
        await until(async () => (await status(bad)) ?? false, name, 10_000),
        /^50[23]$/,
        'another name is refused',
      );
    });

  const shown = await runSallyport(t, ['ca', 'ls', '--dir', ca.directory, '--json']);
  const { serial } = (JSON.parse(shown.stdout) as { id: string; serial: string }[]).find(({ id }) => id === orders)!;
  t.match(
    (await runSallyport(t, ['ca', 'show', '--dir', ca.directory, serial])).stdout,
    /\nnames {5}orders\.shop\.test\n/,
  );
  t.match(
    (await runSallyport(t, ['ca', 'report', '--dir', ca.directory])).stdout,
    /sa\/orders .* orders\.shop\.test\n/,
  );
  t.match(await runSallyport(t, ['ca', 'dns', 'disallow', '--dir', ca.directory, '*.shop.test']), {
    ...{ code: 0, stdout: 'disallowed *.shop.test\n' },
    stderr: /^valid certificates with names that are not allowed any more: 1, until /,
  });
  t.match((await runSallyport(t, ['ca', 'dns', 'ls', '--dir', ca.directory])).stdout, /no DNS names are allowed/);
});
