// Prints an explanation on a terminal.

import type { Explanation, RuleReport } from '../policy/explain.ts';
import { paint, print } from './terminal.ts';

/** Prints the deciding rule, the rules considered in order, and what would have allowed the request. */
export function printExplanation(explanation: Explanation): void {
  const { allowed, because, considered, inScope, nearest, edits, audit } = explanation;
  print(`${allowed ? paint('green', 'allowed') : paint('red', 'denied')}: ${because}`);
  const counts = Object.entries(inScope)
    .filter(([, count]) => count > 0)
    .map(([action, count]) => `${count} ${action}`);
  print(`in scope: ${counts.length === 0 ? 'no rules' : `${counts.join(', ')} rules`}`);
  const shown = considered.filter((one) => !nearest.includes(one));
  if (shown.length > 0) print('');
  for (const one of shown) printRule(one, one.matched ? 'matches' : 'does not match');
  if (nearest.length > 0) {
    print('');
    print(paint('bold', 'the nearest ALLOW rules:'));
    for (const one of nearest) printRule(one, 'does not match');
  }
  if (audit !== null) print(`matches the AUDIT rule ${audit}`);
  if (edits.length === 0) return;
  print('');
  print(paint('bold', allowed ? 'edits:' : 'the smallest edit that would allow it:'));
  for (const edit of edits.slice(0, 1)) print(`  ${edit}`);
  for (const edit of edits.slice(1)) print(`  or ${edit}`);
}

function printRule({ action, policy, rule, matched, failed }: RuleReport, verdict: string): void {
  const mark = matched ? paint(action === 'DENY' ? 'red' : 'green', verdict) : verdict;
  print(`  ${action.padEnd(6)} ${policy} rule ${rule} ${mark}`);
  for (const { place, wanted, negated, saw } of failed)
    print(
      `         ${place}: wants ${negated ? 'none of ' : ''}${wanted.map((one) => `'${one}'`).join(', ')}; saw ${saw === null ? 'nothing' : `'${saw}'`}`,
    );
}
