// Prints an explanation on a terminal.

import type { Explanation, RuleReport } from '../policy/explain.ts';
import { counted, paint, print, printText } from './terminal.ts';

/** Prints the deciding rule, the rules considered in order, and what would have allowed the request. */
export function printExplanation(explanation: Explanation): void {
  const { allowed, because, considered, inScope, nearest, edits, audit } = explanation;
  printText(`${allowed ? paint('green', 'allowed') : paint('red', 'denied')}: ${because}`);
  const counts = Object.entries(inScope)
    .filter(([, count]) => count > 0)
    .map(([action, count]) => counted(count, `${action} rule`));
  printText(`in scope: ${counts.length === 0 ? 'no rules' : counts.join(', ')}`);
  const shown = considered.filter((one) => !nearest.includes(one));
  if (shown.length > 0) print('');
  for (const one of shown) printRule(one, one.matched ? 'matches' : 'does not match');
  if (nearest.length > 0) {
    print('');
    print(paint('bold', 'the nearest ALLOW rules:'));
    for (const one of nearest) printRule(one, 'does not match');
  }
  if (audit !== null) printText(`matches the AUDIT rule ${audit}`);
  if (edits.length === 0) return;
  print('');
  printText(paint('bold', allowed ? 'edits:' : 'the smallest edit that would allow it:'));
  for (const edit of edits.slice(0, 1)) printText(`  ${edit}`, 4);
  for (const edit of edits.slice(1)) printText(`  or ${edit}`, 4);
}

function printRule({ action, policy, rule, matched, failed }: RuleReport, verdict: string): void {
  const mark = matched ? paint(action === 'DENY' ? 'red' : 'green', verdict) : verdict;
  printText(`  ${action.padEnd(6)} ${policy} rule ${rule} ${mark}`, 9);
  for (const { place, wanted, negated, saw } of failed)
    printText(
      `         ${place}: wants ${negated ? 'none of ' : ''}${wanted.map((one) => `'${one}'`).join(', ')}; saw ${saw === null ? 'nothing' : `'${saw}'`}`,
      11,
    );
}
