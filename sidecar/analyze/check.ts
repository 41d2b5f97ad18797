// `sallyport check`: every document by the validation of its own project, and sidecar.yaml and gateway.yaml by ours.
// What reads documents of a gateway, or settings, is loaded for these only: a check of one policy takes a third of a
// second without it.

import type { Problem } from '../../cert-agent/base/errors.ts';
import type { Source } from '../config/sources.ts';
import { isIstio, itemsOf, type PlacedDocument, placeDocuments, readIstio } from '../documents/istio/read.ts';

/** A document of a kind that is not checked here, with its place. */
export interface NotChecked extends Problem {
  readonly apiVersion: string;
  readonly kind: string;
}

/** How many documents there are of a kind. */
export interface KindCount {
  readonly apiVersion: string;
  readonly kind: string;
  readonly count: number;
  /** What has its place here. */
  readonly hint?: string;
}

/** The kinds of `documents`, in the order in which they come first. */
export function countKinds(documents: readonly NotChecked[]): readonly KindCount[] {
  return [...Map.groupBy(documents, ({ apiVersion, kind }) => `${apiVersion} ${kind}`).values()].map((same) => {
    const { apiVersion, kind, hint } = same[0]!;
    return { apiVersion, kind, count: same.length, ...(hint !== undefined && { hint }) };
  });
}

/** The result of checking documents. */
export interface CheckReport {
  /** The number of documents that were checked, good or bad. */
  readonly checked: number;
  readonly problems: readonly Problem[];
  /** What is valid, and probably not meant so. */
  readonly warnings: readonly Problem[];
  readonly notChecked: readonly NotChecked[];
}

/** The same while it grows. */
export type Growing = { -readonly [K in 'problems' | 'warnings']: Problem[] } & {
  checked: number;
  readonly notChecked: NotChecked[];
  /** Documents that are left to the validation of Istio. */
  readonly istio: PlacedDocument[];
};

/** Checks the documents of `sources`, and the items of their Lists. Never throws for what they contain. */
export async function checkDocuments(sources: readonly Source[]): Promise<CheckReport> {
  const { placed, problems } = placeDocuments(sources);
  const report: Growing = { checked: 0, problems: [...problems], warnings: [], notChecked: [], istio: [] };
  for (const one of placed.flatMap(itemsOf)) {
    if (isIstio(one.document)) {
      report.checked++;
      report.istio.push(one);
    } else await (await import('./check-others.ts')).checkOther(one, sources, report);
  }
  report.problems.push(...readIstio(report.istio, 'check').problems);
  return report;
}
