// Lines for a reader that does not read: those of allowed requests are dropped and counted, refusals wait.

import { spawnSync } from 'node:child_process';
import { closeSync, constants, mkdirSync, openSync, readFileSync, readSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { LogFile } from '../../sidecar/observe/log-file.ts';
import { LogLine } from '../../sidecar/observe/log-line.ts';
import { startProcess, tempDir, until } from '../fixtures/process.ts';

const lineOf = (text: string): LogLine => new LogLine().raw(text);

t.test('lines reach the file soon, in order, and all of them by the exit', async (t) => {
  const file = join(tempDir(t), 'access.log');
  const log = new LogFile(file, () => t.fail('nothing is dropped'));
  log.add(lineOf('one\n'), true);
  log.add(lineOf('two\n'), false);
  await until(() => readFileSync(file, 'utf8') === 'one\ntwo\n', 'both lines');
  const long = `${'x'.repeat(600_000)}\n`;
  log.add(lineOf(long), true);
  log.add(lineOf('last\n'), true);
  await log.close();
  t.equal(readFileSync(file, 'utf8'), `one\ntwo\n${long}last\n`);
  const again = new LogFile(file, () => {});
  again.add(lineOf('appended\n'), true);
  await again.close();
  t.ok(readFileSync(file, 'utf8').endsWith('last\nappended\n'), 'a restart appends');
});

t.test('a path that cannot be reopened is retried, and logged once', async (t) => {
  const dir = join(tempDir(t), 'logs');
  const file = join(dir, 'access.log');
  t.throws(() => new LogFile(file, () => {}), {
    code: 'config_unreadable',
    message: `accessLog: ${file} cannot be written: ENOENT`,
  });
  mkdirSync(dir);
  const said: string[] = [];
  const log = new LogFile(file, {
    dropped: () => t.fail('nothing is dropped'),
    reopenFailed: (why) => said.push(why),
    reopened: () => said.push('reopened'),
  });
  log.add(lineOf('one\n'), false);
  await until(() => readFileSync(file, 'utf8') === 'one\n', 'the first line');
  const aside = `${dir}.old`;
  renameSync(dir, aside);
  log.reopen();
  log.add(lineOf('two\n'), false);
  await until(() => readFileSync(join(aside, 'access.log'), 'utf8') === 'one\ntwo\n', 'a line in the old file');
  mkdirSync(dir);
  await until(() => said.includes('reopened'), 'the new file');
  log.add(lineOf('three\n'), false);
  await until(() => readFileSync(file, 'utf8') === 'three\n', 'a line in the new file');
  t.match(said, [/ENOENT/, 'reopened']);
  t.equal(said.length, 2);
  await log.close();
});

const fifo = join(tempDir(t), 'log');
const skip = spawnSync('mkfifo', [fifo]).status === 0 ? false : 'there is no mkfifo here';

t.test('a pipe that is not read drops lines', { skip }, async (t) => {
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  let dropped = 0;
  const log = new LogFile(fifo, () => dropped++);
  const line = (name: string): string => `${name} ${'.'.repeat(1000)}\n`;
  let allowed = 0;
  while (dropped === 0) log.add(lineOf(line(`allowed ${allowed++}`)), true);
  t.ok(allowed * 1000 > 8_000_000 && allowed * 1000 < 9_000_000, `${allowed} lines of a kilobyte fit`);
  for (let i = 0; i < 100; i++) log.add(lineOf(line('allowed late')), true);
  t.equal(dropped, 101);
  t.ok(log.full);
  let room = false;
  log.whenRoom(() => {
    room = true;
    log.add(lineOf(line('refused')), false);
  });
  t.equal(room, false, 'a refusal waits');

  let text = '';
  const block = Buffer.alloc(1 << 20);
  await until(() => {
    for (;;) {
      try {
        const size = readSync(reader, block);
        if (size === 0) break;
        text += block.toString('latin1', 0, size);
      } catch {
        break;
      }
    }
    return text.includes('refused');
  }, 'the refusal to arrive');
  t.ok(room);
  const names = text.split('\n').map((one) => one.split(' .')[0]);
  t.same(names.slice(0, 3), ['allowed 0', 'allowed 1', 'allowed 2']);
  t.equal(names.filter((one) => one?.startsWith('allowed ')).length, allowed - 1, 'the lines taken are there, once');
  t.notMatch(text, 'late');
  await log.close();
  closeSync(reader);
});

t.test('several processes write whole lines to one pipe, in pieces that the pipe takes at once', async (t) => {
  // A child with a pipe for its standard output, which is how a container's log is read.
  const program = `import { LogFile } from ${JSON.stringify(new URL('../../sidecar/observe/log-file.ts', import.meta.url).href)};
    import { LogLine } from ${JSON.stringify(new URL('../../sidecar/observe/log-line.ts', import.meta.url).href)};
    const log = new LogFile('stdout', () => {}, true);
    for (let i = 0; i < 300; i++) log.add(new LogLine().raw(i + ' ' + '.'.repeat(i === 100 ? 6000 : 700) + '\\n'), false);
    await log.close();`;
  const child = startProcess(t, process.execPath, ['--input-type=module', '-e', program]);
  t.equal(await child.exited, 0);
  const lines = child.stdout().trimEnd().split('\n');
  t.same(
    lines.map((line) => Number.parseInt(line, 10)),
    Array.from({ length: 300 }, (_, i) => i),
  );
});
