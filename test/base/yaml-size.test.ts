// Texts that are too large, or would take too much memory: refused before they are parsed, with a place.

import t from 'tap';
import { parseYaml } from '../../cert-agent/base/yaml.ts';

const problem = (text: string): unknown => parseYaml(text, 'a.yaml').problems[0];

t.test('more than a million values are refused where the first is too many', async (t) => {
  const message = 'the file has too many values: at most 1000000 are read';
  const hint = 'split it into several files';
  // Two before the list: its key and itself.
  const flow = `a:\n  [${'1,'.repeat(999_998)}1]`;
  t.strictSame(problem(flow), { file: 'a.yaml', line: 2, column: 4 + 2 * 999_998, message, hint });
  const multiline = `# x\nfirst: |\n  a\n  b\nlist:\n${'- 1\n'.repeat(500_000)}`;
  t.match(problem(multiline), { line: 6 + 499_998, message });
  t.match(problem(`a: 1\n---\n`.repeat(400_000)), { message });
});

t.test('a long text is not many values, and a short one is read whatever it has', async (t) => {
  const { documents, problems } = parseYaml(`a: |\n${'  x, [y] {z}: 1\n'.repeat(300_000)}`, 'a.yaml');
  t.strictSame(problems, []);
  t.equal(documents.length, 1);
  t.strictSame(parseYaml(`[${'1,'.repeat(10_000)}1]`, 'a.yaml').problems, []);
  t.match(problem('x'.repeat(17 * 1_048_576)), { line: 1, column: 1, message: /too large: at most 16 MiB/ });
});
