// What messages name in commands is one word for a shell, whatever is in it.

import { spawnSync } from 'node:child_process';
import t from 'tap';
import { shellWord } from '../../cert-agent/base/shell-word.ts';

const hasBash = spawnSync('bash', ['-c', 'true']).status === 0;

t.test('a shell reads one word', async (t) => {
  const plain = ['a.pem', '/etc/x y', "it's", '$(id)', '`id`', '-rf', 'a;b', 'é', '*', '~', '!x', '\\', ''];
  for (const text of plain) {
    const { stdout } = spawnSync('sh', ['-c', `printf %s ${shellWord(text)}`], { encoding: 'utf8' });
    t.equal(stdout, text.startsWith('-') ? `./${text}` : text, JSON.stringify(text));
  }
  t.equal(shellWord('a.pem'), 'a.pem', 'and a plain one stays as it is');
});

t.test('control characters do not reach a terminal', { skip: !hasBash && 'there is no bash' }, async (t) => {
  for (const text of ['a\nb', '\x1b[2Jx', "it's\r\\", '\u202e']) {
    const word = shellWord(text);
    t.notMatch(word, /[\p{Cc}\p{Cf}]/u);
    const { stdout } = spawnSync('bash', ['-c', `printf %s ${word}`], { encoding: 'utf8' });
    t.equal(stdout, text);
  }
});
