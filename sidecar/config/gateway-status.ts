// What a gateway would make of its documents, without serving: for `gateway status` and CI. From gateway.yaml, or from a
// directory of documents alone, where a Service that stands among them is a backend without endpoints.

import { statSync } from 'node:fs';
import { join } from 'node:path';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import { configError } from '../../cert-agent/base/yaml.ts';
import type { StatusList } from '../routing/status.ts';
import { planGateway, statusOf } from './gateway-plan.ts';
import { type GatewayConfig, readPlaced } from './gateway-read.ts';
import { isGatewayFile, parseGatewaySettings } from './gateway-settings.ts';
import { readConfiguration } from './read.ts';
import { namesIn, readText } from './sources.ts';
import type { Configuration } from './watch.ts';
import { placeDocuments } from './world.ts';

/** @throws SallyportError `config_invalid` with every problem, `config_unreadable`, `usage` for a sidecar's file. */
export function readStatus(
  path: string,
  now: number,
): { readonly list: StatusList; readonly warnings: readonly string[] } {
  const configuration = statSync(path, { throwIfNoEntry: false })?.isDirectory() ? ofDirectory(path) : ofFile(path);
  const gateway = configuration.gateway!;
  return {
    list: statusOf(planGateway(configuration, now), gateway, now),
    warnings: gateway.documents.warnings.map(formatProblem),
  };
}

function ofFile(file: string): Configuration {
  const reading = readConfiguration(file);
  if (reading.gateway === undefined)
    throw new SallyportError('usage', `${file} is of a sidecar`, { hint: "run 'sallyport sidecar'" });
  return { generation: 1, ...reading };
}

function ofDirectory(directory: string): Configuration {
  const sources = namesIn(directory).map((name) => {
    const file = join(directory, name);
    return { file, text: readText(file) };
  });
  const settings = sources.find(({ text }) => isGatewayFile(text));
  if (settings !== undefined) return ofFile(settings.file);
  const { placed, problems } = placeDocuments(sources);
  const read = readPlaced(placed);
  const all = [...problems, ...read.problems];
  if (all.length > 0) throw configError(all);
  const gateway: GatewayConfig = { ...read.gateway, certificates: {}, sessionKeys: undefined, errorPages: {} };
  return { generation: 1, settings: alone, documents: read.istio, gateway };
}

/** The settings of a gateway of which only the documents are known. */
const alone = parseGatewaySettings(
  'trustDomain: example.org\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: .\n',
  'gateway.yaml',
);
