import t from 'tap';
import { makeCa } from '../fixtures/ca.ts';
import { runSallyport } from '../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';

t.test('a stopped CA is operated on its directory', async (t) => {
  const dir = await makeCa(t);
  const created = await runSallyport(t, ['ca', 'token', 'create', '--dir', dir, '--spiffe-id', web, '--json']);
  t.match(created, { code: 0 });
  t.match(JSON.parse(created.stdout), { id: web, token: /^[0-9a-f]{64}$/, expiresAt: /^20.*Z$/ });
  t.match(await runSallyport(t, ['ca', 'ls', '--dir', dir]), { code: 0, stdout: 'no certificates\n' });
  t.match(await runSallyport(t, ['ca', 'revoke', web, '--dir', dir, '--json']), { code: 0, stdout: /"kind": "id"/ });
});
