// The result of a check of a configuration or of documents, in one form for `check` and for `--check`: as JSON, and as
// an exit code.

import { type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import type { KindCount } from '../analyze/check.ts';
import { exitCodes, printError, printJson } from './terminal.ts';

/** What a check found. */
export interface Checked {
  /** How many documents were checked. */
  readonly documents: number;
  readonly problems: readonly Problem[];
  readonly warnings: readonly Problem[];
  /** Files that were not read. */
  readonly passedOver: readonly Problem[];
  /** The kinds that are not checked, and how many documents there are of each. */
  readonly otherKinds: readonly KindCount[];
}

/** Prints `found` as JSON. @returns the exit code; under `strict` that of its warnings too. */
export function printChecked({ documents, problems, warnings, passedOver, otherKinds }: Checked, strict: boolean) {
  const wrong = strict ? [...problems, ...passedOver, ...warnings] : problems;
  const ok = wrong.length === 0;
  const notChecked = otherKinds.reduce((sum, { count }) => sum + count, 0);
  printJson({
    ...{ ok, documents, problems: wrong, warnings: strict ? [] : warnings, passedOver },
    ...{ notChecked, otherKinds },
  });
  return ok ? exitCodes.ok : exitCodes.no;
}

/** A warning as text: with its place if it begins with one, else at the beginning of `file`. */
export function placed(text: string, file: string): Problem {
  const [, where, line, column, message] = /^(\S[^\n]*?):(\d+):(\d+): ([\s\S]*)$/.exec(text) ?? [];
  if (where === undefined) return { file, line: 1, column: 1, message: text };
  return { file: where, line: Number(line), column: Number(column), message: message! };
}

/**
 * Runs `work`. A configuration that is invalid is what a check looks for: its problems are printed, and the result is
 * that of a finding. @throws what `work` throws otherwise.
 */
export async function checking(file: string, json: boolean, work: () => Promise<number>): Promise<number> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof SallyportError) || error.code !== 'config_invalid') throw error;
    const { problems, message, hint } = error;
    const found =
      problems.length > 0 ? problems : [{ ...placed(message, file), ...(hint === undefined ? {} : { hint }) }];
    if (json) printChecked({ documents: 0, problems: found, warnings: [], passedOver: [], otherKinds: [] }, false);
    else printError(error);
    return exitCodes.no;
  }
}
