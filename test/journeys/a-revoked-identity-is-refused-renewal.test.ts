import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { connectOperator } from '../../cert-agent/ca/operator/socket.ts';
import { ask, makeCa, newKey, svidOf } from '../fixtures/ca.ts';
import { runSallyport, startSallyport } from '../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';

t.test('a revoked identity is refused renewal until it is allowed, and a restart remembers it', async (t) => {
  const dir = await makeCa(t);
  const root = readFileSync(join(dir, 'bundle.pem'), 'utf8');
  const serve = async () => {
    const ca = startSallyport(t, ['ca', 'serve', '--dir', dir, '--listen', '127.0.0.1:0']);
    const [, port] = await ca.waitFor(/"listening","address":"127\.0\.0\.1:(\d+)"/);
    return { ca, port: Number(port) };
  };
  const running = await serve();
  let { port } = running;
  const enrol = async () => {
    const key = await newKey();
    const { token } = await connectOperator(join(dir, 'ca.sock')).createToken(web, 60_000);
    return svidOf(await ask(port, root, { path: '/v1/svid', body: { csr: key.csr, token } }), key);
  };
  const renew = async (svid: { cert: string; key: string }) =>
    ask(port, root, { path: '/v1/svid/renew', body: { csr: (await newKey()).csr }, svid });

  const svid = await enrol();
  t.equal((await renew(svid)).status, 200);
  const revoked = await runSallyport(t, ['ca', 'revoke', web, '--dir', dir, '--reason', 'laptop stolen']);
  t.match(revoked, { code: 0, stdout: `revoked ${web} and 2 of its certificates\n` });
  t.match(await renew(svid), { status: 403, json: { code: 'id_denied' } });
  t.match((await ask(port, root, { path: '/v1/bundle' })).json.sallyport_denied, { ids: [web] });

  await running.ca.stop('SIGKILL');
  ({ port } = await serve());
  t.match(await renew(svid), { status: 403, json: { code: 'id_denied' } }, 'after a kill and a restart too');

  const allowed = await runSallyport(t, ['ca', 'allow', web, '--dir', dir]);
  t.match(allowed, { code: 0, stdout: `allowed ${web}\n` });
  t.match(await renew(svid), { status: 403, json: { code: 'id_denied' } }, 'the old certificate stays refused');
  t.equal((await renew(await enrol())).status, 200, 'a new one renews');
});
