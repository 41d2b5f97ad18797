// `sallyport inject`: standard input and output, reports, exit codes.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { documentsOf, workloadsText } from '../fixtures/kube.ts';
import { createAuthority } from '../fixtures/pki.ts';
import { runSallyport, tempDir } from '../fixtures/process.ts';

t.test('as in a pipe', async (t) => {
  const dir = tempDir(t);
  const bundle = join(dir, 'bundle.pem');
  writeFileSync(bundle, (await createAuthority('demo.test')).bundlePem);
  const inject = (args: readonly string[], input = '') => runSallyport(t, ['inject', ...args], { input });
  const done = await inject(['--ca-bundle', bundle, '-n', 'shop'], workloadsText);
  t.equal(done.code, 0, done.stderr);
  t.match(done.stdout, 'spiffe://demo.test/ns/shop/sa/checkoutservice');
  t.match(done.stderr, 'DaemonSet node-exporter: left alone: it uses the network of its node\n');
  t.match(done.stderr, "Job odd: hostPort 80 leads to the app's port 8080 past the sidecar\n");
  const file = join(dir, 'injected.yaml');
  writeFileSync(file, done.stdout);
  const again = await inject(['--ca-bundle', bundle, '-n', 'shop', '-f', file]);
  t.equal(again.stdout, done.stdout, 'twice is once');
  const back = await inject(['--uninject', '-f', file]);
  t.strictSame(documentsOf(back.stdout), documentsOf(workloadsText));

  const json = await inject(['--ca-bundle', bundle, '--json'], workloadsText);
  const lines = json.stderr
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  t.match(
    lines.find(({ name }) => name === 'node-exporter'),
    {
      ...{ document: Number, kind: 'DaemonSet', namespace: 'monitoring', outcome: 'left_alone', code: 'host_network' },
    },
  );

  const wrong = workloadsText.replace('sidecar.istio.io/logLevel: debug', 'sidecar.istio.io/logLevel: loud');
  const refused = await inject(['--ca-bundle', bundle], wrong);
  t.equal(refused.code, 2);
  t.equal(refused.stdout, '', 'nothing reaches kubectl');
  t.match(refused.stderr, /Deployment tuned: refused: annotation sidecar\.istio\.io\/logLevel: 'loud'/);
  t.match(await inject([], ''), { code: 2, stderr: /--ca-bundle/ });
  t.match(await inject(['--ca-bundle', bundle], 'spec: { containers: ['), { code: 2, stdout: '' });
  t.match(await inject(['--ca-bundle', bundle], '\n'), { code: 2, stdout: '', stderr: /<stdin> is empty/ });
  t.match(await inject(['--ca-bundle', bundle, '--ca', 'http://x'], ''), { code: 2, stderr: /https/ });
  t.match(await inject(['--ca-bundle', bundle, '-f', join(dir, 'none')]), { code: 2, stderr: /does not exist/ });
  t.ok(readFileSync(file, 'utf8').length > 0);
});
