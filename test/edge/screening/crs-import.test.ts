// Rule files in the language of OWASP CRS: what is carried, and what is named as not carried.

import { join } from 'node:path';
import t from 'tap';
import { importCrs } from '../../../sidecar/edge/screening/crs-import.ts';
import { compileCrs } from '../../../sidecar/edge/screening/crs-rules.ts';

const rule = (id: number, targets: string, operator: string, more = ''): string =>
  `SecRule ${targets} "${operator}" \\\n    "id:${id},\\\n    phase:2,\\\n    block,\\\n    t:none,t:lowercase,\\\n    msg:'A message, with a comma',\\\n    ver:'OWASP_CRS/4.99.0',\\\n    tag:'attack-sqli',tag:'paranoia-level/2',severity:'ERROR',${more}\\\n    setvar:'tx.inbound_anomaly_score_pl2=+%{tx.error_anomaly_score}'"\n`;

const text = [
  '# a comment',
  rule(1, 'ARGS|REQUEST_HEADERS:User-Agent|!ARGS:pass', '@rx a\\"b+'),
  rule(2, 'REQUEST_FILENAME|TX:x', '@pmFromFile words.data'),
  rule(3, 'ARGS', '@pm one two'),
  rule(4, 'TX:ANOMALY', '@rx a'),
  rule(5, 'ARGS', '!@rx a'),
  rule(6, 'ARGS', '@rx a(?=b)'),
  rule(7, 'ARGS', '@detectSQLi'),
  rule(8, 'ARGS', '@rx %{tx.a}'),
  rule(9, 'ARGS', '@rx a', 't:sqlHexDecode,'),
  rule(10, 'ARGS', '@rx a', 'phase:4,').replace('phase:2,', ''),
  'SecRule ARGS "@rx a" "id:11,phase:2,chain"\n    SecRule ARGS "@rx b" "setvar:\'tx.inbound_anomaly_score_pl1=+5\'"\n',
  'SecRule TX:X "@lt 1" "id:12,phase:1,pass,nolog,skipAfter:END"\n',
  rule(13, 'ARGS', '@validateByteRange 1-255'),
  rule(14, 'ARGS', '@pmFromFile ../missing.data'),
  rule(15, 'ARGS|!REQUEST_COOKIES:/^_ga/', '@contains a'),
  rule(16, 'ARGS', '@rx a'),
  rule(17, 'ARGS', '@rx q'),
  'SecRule ARGS "@rx a" "id:18,phase:2,deny,status:403"\n',
  'SecRule ARGS "@rx a\n',
].join('\n');

t.test('rules are imported', async (t) => {
  const directory = t.testdir({
    'a.conf': text,
    'words.data': '# words\n/.secret\n\n/.other\n',
    'user.conf': 'SecRuleRemoveById 16\nSecRuleUpdateTargetById 17 "!ARGS:comment"\n',
  });
  const { version, rules, notCarried } = importCrs(directory);
  t.equal(version, 'OWASP_CRS/4.99.0');
  const common = { transformations: ['lowercase'], score: 4, level: 2, detector: 'sql' };
  t.strictSame(rules, [
    {
      id: 1,
      in: ['query', 'body', 'header'],
      names: ['user-agent'],
      notNames: ['pass'],
      operator: 'rx',
      argument: 'a"b+',
      ...common,
    },
    { id: 2, in: ['path'], operator: 'pm', argument: ['/.secret', '/.other'], ...common },
    { id: 3, in: ['query', 'body'], operator: 'pm', argument: ['one', 'two'], ...common },
    { id: 15, in: ['query', 'body'], operator: 'contains', argument: 'a', ...common },
    { id: 17, in: ['query', 'body'], notNames: ['comment'], operator: 'rx', argument: 'q', ...common },
  ]);
  t.match(
    notCarried.map(({ id, inPart, why }) => `${id ?? 'a rule'}${inPart ? ' in part' : ''}: ${why}`),
    [
      '2 in part: does not read TX',
      '4: reads TX',
      '5: matches if nothing is found',
      /^6: RE2 does not support its expression: /,
      "7: needs libinjection: the detector 'sql' is in its place",
      '8: compares with a variable',
      '9: transforms with sqlHexDecode',
      '10: reads responses',
      '11: is chained with another rule',
      '13: compares with @validateByteRange',
      /^14: cannot read .*missing.data/,
      '15 in part: does not read the exception !REQUEST_COOKIES:/^_ga/',
      '16: removed by SecRuleRemoveById',
      '18: adds nothing to an anomaly score: it needs a setvar as the rules of CRS have it',
      'a rule: has no id: SecRule ARGS ""@rx"',
    ],
  );
  const [first] = compileCrs(rules, 2);
  t.ok(first!.matches('xA"BB'));
  t.ok(first!.isAbout('header', 'User-Agent'));
  t.notOk(first!.isAbout('header', 'Referer'));
  t.notOk(first!.isAbout('query', 'pass'));
  t.strictSame(compileCrs(rules, 1), [], 'rules of a higher paranoia level do not run');
});

t.test('a directory without rules is refused', async (t) => {
  const directory = t.testdir({ 'a.txt': '' });
  t.throws(() => importCrs(directory), {
    code: 'config_unreadable',
    message: `${directory} has no rule file (*.conf)`,
  });
  t.throws(() => importCrs(join(directory, 'none')), { code: 'config_unreadable', message: /^cannot read .*none/ });
});
