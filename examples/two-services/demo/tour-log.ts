// The tour as it happens, one JSON object per line in run/tour.jsonl. The page in the browser reads it from there, even
// after the demo itself has ended.

import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Step } from './step.ts';

export type TourEvent =
  | { readonly type: 'plan'; readonly steps: readonly Pick<Step, 'name' | 'expected' | 'way'>[] }
  | { readonly type: 'run'; readonly step: number }
  | { readonly type: 'outcome'; readonly step: number; readonly got: string; readonly ok: boolean }
  | { readonly type: 'end'; readonly verdict: string };

/** Appends one event to the file in `directory`, the world's. */
export function note(directory: string, event: TourEvent): void {
  appendFileSync(join(directory, 'run', 'tour.jsonl'), `${JSON.stringify(event)}\n`);
}
