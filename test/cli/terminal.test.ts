// Output to a terminal and to a pipe.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { startProcess, tempDir } from '../fixtures/process.ts';

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));

t.test('a reader that closes the pipe gets no stack trace', async (t) => {
  const dir = tempDir(t);
  const questions = join(dir, 'questions.jsonl');
  writeFileSync(questions, `${JSON.stringify({ from: null, method: 'GET', path: '/' })}\n`.repeat(5000));
  const script = `"$@" | head -1; echo "ended with \${PIPESTATUS[0]}"`;
  const child = startProcess(t, 'bash', [
    ...['-c', script, 'bash', process.execPath, bin],
    ...['policy', 'eval', '--batch', questions],
  ]);
  t.equal(await child.exited, 0);
  t.match(child.stdout(), /^\{.*\}\nended with 141\n$/, 'one line, and the exit code of SIGPIPE');
  t.equal(child.stderr(), '', 'nothing');
});
