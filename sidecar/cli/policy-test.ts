// `policy test`: runs fixtures, for people and for CI.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { TestReport, TestResult } from '../analyze/fixtures.ts';
import type { ScopeFlags } from '../analyze/world.ts';
import { exitCodes, notePassedOver, noteWarning, paint, print, printJson } from './terminal.ts';

interface TestFlags extends ScopeFlags {
  readonly format: string;
  readonly minCoverage?: string;
}

const formats: Readonly<Record<string, (report: TestReport) => Promise<void> | void>> = {
  text: printText,
  json: printJson,
  tap: printTap,
  junit: printJunit,
};

/** Runs the fixtures and prints the results. */
export async function testFixtures(files: readonly string[], flags: TestFlags): Promise<number> {
  const show = formats[flags.format];
  if (show === undefined)
    throw new SallyportError(
      'usage',
      `--format must be one of ${Object.keys(formats).join(', ')}, not '${flags.format}'`,
    );
  const wanted = Number(flags.minCoverage ?? 0);
  if (!(wanted >= 0 && wanted <= 100))
    throw new SallyportError('usage', `--min-coverage takes a percentage, not '${flags.minCoverage}'`);
  const { runFixtures } = await import('../analyze/fixtures.ts');
  const report = await runFixtures(files, flags);
  notePassedOver(report.passedOver);
  if (report.results.length === 0)
    throw new SallyportError('usage', `no request in ${files.join(', ')}: nothing was tested`, {
      hint: "a file of fixtures has 'requests:', each with its verdict",
    });
  if (report.coverage.length === 0) noteWarning('no rule applies to any of these requests: the default decides');
  await show(report);
  const passed = report.results.every((one) => one.passed);
  return passed && percent(report) >= wanted ? exitCodes.ok : exitCodes.no;
}

function percent({ coverage }: TestReport): number {
  // Without a rule nothing is covered.
  if (coverage.length === 0) return 0;
  return (coverage.filter(({ matched }) => matched > 0).length / coverage.length) * 100;
}

async function printText(report: TestReport): Promise<void> {
  const { printExplanation } = await import('./explanation.ts');
  for (const one of report.results) {
    if (one.passed) continue;
    print(`${paint('red', 'FAILS')} ${one.file}:${one.line}: ${one.name}`);
    print(`  ${one.difference}`);
    if (one.explanation !== undefined) printExplanation(one.explanation);
    print('');
  }
  const failed = report.results.filter((one) => !one.passed).length;
  const missed = report.coverage.filter(({ matched }) => matched === 0);
  for (const { rule } of missed) print(`${paint('yellow', 'no request matches')} ${rule}`);
  print(
    `${report.results.length - failed} passed, ${failed} failed; ${report.coverage.length - missed.length} of ${report.coverage.length} rules matched a request`,
  );
}

function printTap({ results }: TestReport): void {
  print(`TAP version 14\n1..${results.length}`);
  for (const [index, one] of results.entries()) {
    print(`${one.passed ? 'ok' : 'not ok'} ${index + 1} - ${one.name.replace(/[#\n]/g, ' ')}`);
    if (one.passed) continue;
    print(
      `  ---\n  message: ${JSON.stringify(one.difference)}\n  at: ${JSON.stringify(`${one.file}:${one.line}`)}\n  ...`,
    );
  }
}

function printJunit({ results }: TestReport): void {
  const failures = results.filter((one) => !one.passed).length;
  const cases = results.map(
    (one) =>
      `  <testcase classname="${xml(one.file)}" name="${xml(one.name)}"${one.passed ? '/>' : `>\n    <failure message="${xml(one.difference ?? '')}">${xml(textOf(one))}</failure>\n  </testcase>`}`,
  );
  print(
    `<?xml version="1.0" encoding="UTF-8"?>\n<testsuite name="sallyport policy test" tests="${results.length}" failures="${failures}">\n${cases.join('\n')}\n</testsuite>`,
  );
}

function textOf({ file, line, explanation }: TestResult): string {
  return [`${file}:${line}`, ...(explanation === undefined ? [] : [explanation.because, ...explanation.edits])].join(
    '\n',
  );
}

function xml(text: string): string {
  const entities: Readonly<Record<string, string>> = { '<': '&lt;', '>': '&gt;', '&': '&amp;', '"': '&quot;' };
  // Characters that XML 1.0 does not allow are dropped.
  return text.replace(/[^\t\n\x20-\ud7ff\ue000-\ufffd]/g, '').replace(/[<>&"]/g, (one) => entities[one]!);
}
