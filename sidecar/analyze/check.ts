// `sallyport check`: every document by the validation of its own project, and sidecar.yaml and gateway.yaml by ours.

import { type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import { isGatewayPolicy, readGatewayPolicy } from '../config/gateway-config.ts';
import { parseGatewaySettings } from '../config/gateway-settings.ts';
import { readSettings } from '../config/sidecar-settings.ts';
import { isGatewayFile, type Source } from '../config/sources.ts';
import { policyProblems } from '../documents/envoy-gateway/api-rules.ts';
import { checkGatewayApi, isGatewayApi } from '../documents/gateway-api/gateway.ts';
import { withSlashes } from '../documents/gateway-api/relative-path.ts';
import { itemsOf, type PlacedDocument, placeDocuments, readIstio } from '../documents/istio/read.ts';
import { asStored } from '../documents/stored.ts';
import { sortDocument } from './known-groups.ts';
import { isSettings } from './world.ts';

/** The result of checking documents. */
export interface CheckReport {
  /** The number of documents that were checked, good or bad. */
  readonly checked: number;
  readonly problems: readonly Problem[];
  /** What is valid, and probably not meant so. */
  readonly warnings: readonly Problem[];
  /** Documents of kinds that are not checked here, each with its place. */
  readonly notChecked: readonly Problem[];
}

/** Checks the documents of `sources`, and the items of their Lists. Never throws for what they contain. */
export async function checkDocuments(sources: readonly Source[]): Promise<CheckReport> {
  const { placed, problems } = placeDocuments(sources);
  const warnings: Problem[] = [];
  const notChecked: Problem[] = [];
  const istio: PlacedDocument[] = [];
  let checked = 0;
  for (const one of placed.flatMap(itemsOf)) {
    const { document, file } = one;
    const verdict = sortDocument(document);
    if (typeof verdict === 'object' && 'other' in verdict) {
      notChecked.push(verdict.other);
      continue;
    }
    checked++;
    if (typeof verdict === 'object') problems.push(verdict.slip);
    else if (isSettings(document)) problems.push(...(await settingsProblems(sources.find((of) => of.file === file)!)));
    else if (isGatewayApi(document)) {
      const { document: read, warnings: ofPaths } = withSlashes(asStored(document));
      warnings.push(...ofPaths);
      problems.push(...checkGatewayApi(read));
    } else if (isGatewayPolicy(document)) {
      const stored = asStored(document);
      const read = readGatewayPolicy(stored, file);
      if ('problems' in read) problems.push(...read.problems);
      else {
        problems.push(...policyProblems(stored));
        if ('warnings' in read) warnings.push(...read.warnings);
      }
    } else istio.push(one);
  }
  problems.push(...readIstio(istio, 'check').problems);
  return { checked, problems, warnings, notChecked };
}

async function settingsProblems({ text, file }: Source): Promise<readonly Problem[]> {
  try {
    if (isGatewayFile(text)) parseGatewaySettings(text, file);
    else await readSettings(text, file);
    return [];
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    return error.problems;
  }
}
