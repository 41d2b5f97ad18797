// The check of everything but Istio's kinds: Gateway API, Envoy Gateway, kinds of our own, and settings files.

import { type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import { isGatewayPolicy, loadOwnKindsIn, readGatewayPolicy } from '../config/gateway-config.ts';
import { parseGatewaySettings } from '../config/gateway-settings.ts';
import { readSettings } from '../config/sidecar-settings.ts';
import { isGatewayFile, type Source } from '../config/sources.ts';
import { policyProblems } from '../documents/envoy-gateway/api-rules.ts';
import { checkGatewayApi, isGatewayApi } from '../documents/gateway-api/gateway.ts';
import { headOf } from '../documents/gateway-api/read.ts';
import { withSlashes } from '../documents/gateway-api/relative-path.ts';
import type { PlacedDocument } from '../documents/istio/read.ts';
import { asStored } from '../documents/stored.ts';
import type { Growing } from './check.ts';
import { sortDocument } from './known-groups.ts';
import { isSettings } from './paths.ts';

/** Adds what is wrong with a document to `report`; one that no reader here knows is left to Istio's. */
export async function checkOther(one: PlacedDocument, sources: readonly Source[], report: Growing): Promise<void> {
  const { document, file } = one;
  const { problems, warnings } = report;
  const verdict = sortDocument(document);
  if (typeof verdict === 'object' && 'other' in verdict) {
    report.notChecked.push({ ...verdict.other, ...headOf(document.value) });
    return;
  }
  report.checked++;
  if (typeof verdict === 'object') problems.push(verdict.slip);
  else if (isSettings(document)) problems.push(...(await settingsProblems(sources.find((of) => of.file === file)!)));
  else if (isGatewayApi(document)) {
    const { document: read, warnings: ofPaths } = withSlashes(asStored(document));
    warnings.push(...ofPaths);
    problems.push(...checkGatewayApi(read));
  } else await checkPolicy(one, report);
}

async function checkPolicy(one: PlacedDocument, { problems, warnings, istio }: Growing): Promise<void> {
  const { document, file } = one;
  const own = await loadOwnKindsIn([one]);
  if (!isGatewayPolicy(document, own)) {
    istio.push(one);
    return;
  }
  const stored = asStored(document);
  const read = readGatewayPolicy(stored, file, own);
  if ('problems' in read) problems.push(...read.problems);
  else {
    problems.push(...policyProblems(stored));
    if ('warnings' in read) warnings.push(...read.warnings);
  }
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
