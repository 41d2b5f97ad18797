import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { connectOperator } from '../../cert-agent/ca/operator/socket.ts';
import { ask, makeCa, newKey } from '../fixtures/ca.ts';
import { runSallyport, startSallyport } from '../fixtures/process.ts';

const tokenCount = 24;
const killAfter = 8;

t.test('a CA that is killed under load has every certificate on record that it returned', async (t) => {
  const dir = await makeCa(t);
  const root = readFileSync(join(dir, 'bundle.pem'), 'utf8');
  const serve = async () => {
    const ca = startSallyport(t, ['ca', 'serve', '--dir', dir, '--listen', '127.0.0.1:0']);
    const [, port] = await ca.waitFor(/"listening","address":"127\.0\.0\.1:(\d+)"/);
    return { ca, port: Number(port) };
  };
  const { ca, port } = await serve();
  const operator = connectOperator(join(dir, 'ca.sock'));
  const orders = await Promise.all(
    Array.from({ length: tokenCount }, async (_, index) => ({
      token: (await operator.createToken(`spiffe://demo.test/w/${index}`, 600_000)).token,
      csr: (await newKey()).csr,
    })),
  );

  const answered = new Map<string, string>();
  const left = [...orders];
  async function worker(): Promise<void> {
    for (let order = left.pop(); order !== undefined; order = left.pop()) {
      const answer = await ask(port, root, { path: '/v1/svid', body: order });
      if (answer.status === 200) answered.set(order.token, answer.json.serial);
      if (answered.size === killAfter) ca.process.kill('SIGKILL');
    }
  }
  await Promise.allSettled(Array.from({ length: 8 }, worker));
  t.equal(await ca.exited, null, 'it was killed');
  t.ok(answered.size >= killAfter && answered.size < tokenCount, `in the middle: ${answered.size} of ${tokenCount}`);

  const listed = await runSallyport(t, ['ca', 'ls', '--dir', dir, '--all', '--json']);
  t.equal(listed.code, 0, listed.stderr);
  const onRecord = new Set((JSON.parse(listed.stdout) as { serial: string }[]).map((one) => one.serial));
  t.same(
    [...answered.values()].filter((serial) => !onRecord.has(serial)),
    [],
    'every confirmed serial is on record',
  );

  // A certificate that was lost between disk and response is returned again to the same key.
  const again = await serve();
  for (const order of orders) {
    const answer = await ask(again.port, root, { path: '/v1/svid', body: order });
    if (answer.status !== 200) t.fail(answer.text);
    const before = answered.get(order.token);
    if (before !== undefined && before !== answer.json.serial) t.fail('the token gave another certificate');
  }
  t.equal(await again.ca.stop(), 0);
});
