import t from 'tap';
import { createLog } from '../../cert-agent/base/log.ts';
import { formatLogLine } from '../../cert-agent/base/log-text.ts';

/** What pino writes for one event, as text. */
function textOf(fields: object, sentence: string): string {
  let written = '';
  const log = createLog({ component: 'sidecar', destination: { write: (line) => (written += line) } });
  log.warn(fields, sentence);
  return formatLogLine(written).replace(/^\S+Z/, 'TIME');
}

t.test('a line for a person', async (t) => {
  t.equal(
    textOf({ code: 'listening', port: 15006 }, 'it listens'),
    'TIME warn  sidecar: it listens [listening] port=15006\n',
  );
  t.equal(
    textOf({ code: 'x', hint: 'do this', waitingFor: ['a b'], why: 'two words', bare: 'one' }, 'it waits'),
    'TIME warn  sidecar: it waits [x] waitingFor=["a b"] why="two words" bare=one\n  hint: do this\n',
  );
  t.equal(formatLogLine('no JSON\n'), 'no JSON\n');
  t.equal(formatLogLine('7\n'), '7\n');
});

t.test('a peer cannot write to the terminal', async (t) => {
  const hostile = '\u001b[2J\n2026 info  sidecar: all is well\u202e\u0085\u2028';
  const text = textOf({ code: 'x', [hostile]: hostile, hint: hostile }, hostile);
  t.notMatch(text.replace(/\n {2}hint: /, ' ').slice(0, -1), /[\u0000-\u001f\u007f-\u009f\u2028\u202e]/);
  t.match(text, /\\u001b\[2J\\u000a2026/);
});
