import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { runCommand } from '../fixtures/command.ts';
import { startSallyport, tempDir, until } from '../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';
const db = 'spiffe://demo.test/ns/shop/sa/db';

t.test('a CA is backed up while it runs, and restored after its disk was lost', async (t) => {
  const ca = await makeCa(t);
  const place = tempDir(t);
  const run = (...args: string[]) => runCommand(t, ['ca', ...args]);
  const at = ['--dir', ca.directory];
  const serving = await ca.serve();
  const [tokenFile, outDir] = [join(place, 'token'), join(place, 'run')];
  await ca.writeToken(web, tokenFile);
  const agentArgs = [
    'agent',
    '--ca',
    ca.url,
    '--ca-bundle',
    ca.bundleFile,
    '--token-file',
    tokenFile,
    '--out-dir',
    outDir,
  ];
  const agent = startSallyport(t, agentArgs);
  await agent.waitFor(/"svid_received"/);

  const first = join(place, 'backup-1');
  t.match(await run('backup', ...at, '--out', first), { code: 0, stdout: /^wrote .*backup-1: \d+ files/ });
  t.equal((await run('revoke', db, ...at, '--force', '--wait', '0')).code, 0);
  t.equal(await serving.stop(), 0);

  // The next start signs a head, which the agent remembers.
  const again = await ca.serve();
  const seen = join(outDir, 'ledger-head.json');
  const head = () => JSON.parse(readFileSync(seen, 'utf8')).sequence as number;
  const signed = JSON.parse((await run('ledger', 'show', ...at, '--heads', '--json')).stdout).at(-1).sequence;
  await until(() => existsSync(seen) && head() >= signed, 'the new head');
  const second = join(place, 'backup-2');
  t.equal((await run('backup', ...at, '--out', second)).code, 0);
  again.process.kill('SIGKILL');
  await again.exited;
  rmSync(ca.directory, { recursive: true });

  const behind = await run('restore', '--from', first, ...at, '--seen', seen);
  t.match(behind, {
    code: 1,
    stderr: /the backup of .* is behind the ledger: .*\[ledger_behind\]\nhint: use a newer backup/,
  });
  t.notOk(existsSync(ca.directory));
  t.match(await run('restore', '--from', second, ...at, '--seen', seen), {
    code: 0,
    stdout: /^restored the CA of demo\.test as of /,
  });
  t.match(await run('ledger', 'verify', ...at, '--head', seen), { code: 0, stdout: /^verified: / });
  t.match(await run('deny-list', ...at), { stdout: new RegExp(db) });

  const restored = await ca.serve();
  const wanted = head() + 1;
  await until(() => head() >= wanted, 'the head of the restored CA');
  t.notMatch(agent.stderr(), /ledger_behind/);
  t.equal(await restored.stop(), 0);

  // The first backup, forced: the agent says that revocations may be forgotten.
  t.match(await run('restore', '--from', first, ...at, '--force'), {
    code: 0,
    stderr: /warning: records \d+ to \d+ of the ledger are lost: revoke again what was revoked since/,
  });
  t.match(await run('deny-list', ...at), { stdout: 'nothing is denied\n' });
  t.match(await run('ledger', 'verify', ...at, '--head', seen), {
    code: 1,
    stdout: /no signed head covers record \d+, by which a restore lost it/,
  });
  const forced = await ca.serve();
  t.match(await run('ledger', 'verify', ...at, '--head', seen), {
    code: 0,
    stderr: /the CA was restored from a backup; records/,
  });
  // Behind until the restored CA has written as many records, then forked.
  await agent.waitFor(/"ledger_(?:behind|forked)".*revocations may be forgotten/);
  t.equal(await agent.stop(), 0);
  t.equal(await forced.stop(), 0);
});

t.test('a backup that is killed leaves nothing under its name', async (t) => {
  const ca = await makeCa(t);
  const place = join(tempDir(t), 'backups');
  mkdirSync(place);
  let killed = 0;
  for (let attempt = 0; killed < 4 && attempt < 20; attempt++) {
    const name = `b${attempt}`;
    const backup = startSallyport(t, ['ca', 'backup', '--dir', ca.directory, '--out', join(place, name)]);
    let over = false;
    void backup.exited.then(() => {
      over = true;
    });
    const begun = () => over || readdirSync(place).find((one) => one.startsWith(`.${name}.`));
    const temporary = await until(begun, 'the temporary directory');
    // From the first file to the last one.
    if (typeof temporary === 'string')
      await until(() => over || filesIn(join(place, temporary)) >= attempt * 2, 'some files');
    backup.process.kill('SIGKILL');
    await backup.exited;
    if (!existsSync(join(place, name))) killed += 1;
    else t.match(await restore(t, join(place, name)), { code: 0 }, 'the backup was complete');
  }
  t.ok(killed >= 1, `${killed} were killed in the middle`);
  const after = join(place, 'after');
  t.equal((await runCommand(t, ['ca', 'backup', '--dir', ca.directory, '--out', after])).code, 0);
  t.match(await restore(t, after), { code: 0 });
});

function filesIn(directory: string): number {
  try {
    return readdirSync(directory).length;
  } catch {
    return 0;
  }
}

const restore = (t: { teardown(run: () => unknown): void }, from: string) =>
  runCommand(t, ['ca', 'restore', '--from', from, '--dir', join(tempDir(t), 'restored')]);

t.test('a restore that is killed can be repeated', async (t) => {
  const ca = await makeCa(t);
  const backup = join(tempDir(t), 'backup');
  t.equal((await runCommand(t, ['ca', 'backup', '--dir', ca.directory, '--out', backup])).code, 0);
  // As a kill between the two halves would leave it: the old files are aside, and some of the new ones are in place.
  const aside = join(ca.directory, 'before-restore-x');
  mkdirSync(aside);
  for (const name of readdirSync(ca.directory))
    if (name.endsWith('.json') || name.startsWith('store')) rmSync(join(ca.directory, name));
  writeFileSync(join(ca.directory, '.restore.x.tmp'), '');
  t.match(await runCommand(t, ['ca', 'ls', '--dir', ca.directory]), { code: 2, stderr: /\[ca_missing\]/ });
  t.match(await runCommand(t, ['ca', 'restore', '--from', backup, '--dir', ca.directory]), { code: 0 });
  t.match(await runCommand(t, ['ca', 'ls', '--dir', ca.directory]), { code: 0 });
});
