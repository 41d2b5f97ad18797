// What a shell offers, by the script that a user sources.

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { runSallyport, tempDir } from '../fixtures/process.ts';

const has = (shell: string): boolean => spawnSync(shell, ['-c', 'true']).status === 0;

/** What bash offers for the last of `words`. */
function offered(script: string, words: readonly string[]): string[] {
  const list = words.map((one) => `'${one}'`).join(' ');
  const asked = `source '${script}'; COMP_WORDS=(${list}); COMP_CWORD=${words.length - 1}; _sallyport; echo "\${COMPREPLY[@]}"`;
  const { stdout, stderr } = spawnSync('bash', ['--norc', '-c', asked], { encoding: 'utf8' });
  if (stderr !== '') throw new Error(stderr);
  return stdout
    .trim()
    .split(/\s+/)
    .filter((one) => one !== '');
}

t.test('bash', { skip: has('bash') ? false : 'there is no bash here' }, async (t) => {
  const { code, stdout } = await runSallyport(t, ['completion', 'bash']);
  t.equal(code, 0);
  const script = join(tempDir(t), 'completion.bash');
  writeFileSync(script, stdout);
  t.same(offered(script, ['sallyport', 'ga']), ['gateway']);
  t.same(offered(script, ['sallyport', 'ca', 'to']), ['token']);
  t.same(offered(script, ['sallyport', 'ca', 'token', 'c']), ['create']);
  t.same(offered(script, ['sallyport', 'ca', 'token', 'create', '--spiffe']), ['--spiffe-id']);
  t.same(offered(script, ['sallyport', 'ca', 'init', '--dir', 'ca', '--trust']), ['--trust-domain']);
  t.same(offered(script, ['sallyport', 'sidecar', '--config', 'a']), [], 'a file name is left to the shell');
  const known = offered(script, ['sallyport', '']);
  for (const one of ['ca', 'agent', 'sidecar', 'exec', 'completion', '--help']) t.ok(known.includes(one), one);
});

t.test('zsh', { skip: has('zsh') ? false : 'there is no zsh here' }, async (t) => {
  const dir = tempDir(t);
  const script = join(dir, 'completion.zsh');
  writeFileSync(script, (await runSallyport(t, ['completion', 'zsh'])).stdout);
  // As bashcompinit calls the function.
  const asked = `autoload -U compinit && compinit -u -d '${dir}/dump'; source '${script}'
    ask() { emulate -L sh; setopt kshglob noshglob braceexpand ksharrays; _sallyport; echo "\${COMPREPLY[@]}"; }
    COMP_WORDS=(sallyport ca token c); COMP_CWORD=3; ask`;
  const { stdout, stderr } = spawnSync('zsh', ['-f', '-c', asked], { encoding: 'utf8' });
  // zsh compares them with what was typed.
  t.equal(stdout, 'create ls rm --help\n', stderr);
});

t.test('fish', { skip: has('fish') ? false : 'there is no fish here' }, async (t) => {
  const script = join(tempDir(t), 'sallyport.fish');
  writeFileSync(script, (await runSallyport(t, ['completion', 'fish'])).stdout);
  const asked = `source '${script}'; complete -C 'sallyport ca token c'; complete -C 'sallyport ca init --trust'`;
  const { stdout, stderr } = spawnSync('fish', ['-N', '-c', asked], { encoding: 'utf8' });
  t.match(stdout, /^create\t.*\n--trust-domain\ttrust domain/, stderr);
});

t.test('another shell', async (t) => {
  t.match(await runSallyport(t, ['completion', 'csh']), { code: 2, stderr: /Allowed choices are bash, zsh, fish/ });
});
