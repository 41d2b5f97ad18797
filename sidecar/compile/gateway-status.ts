// Reads a gateway's documents without serving them, for `gateway status` and CI: from gateway.yaml, or from a directory
// of documents alone, where a Service among them is a backend without endpoints.

import { statSync } from 'node:fs';
import type { Address } from '../../cert-agent/base/address.ts';
import { type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import { configError } from '../../cert-agent/base/yaml.ts';
import type { Snapshot } from '../cluster/store.ts';
import { type GatewayConfig, loadOwnKindsIn, readPlaced } from '../config/gateway-config.ts';
import { parseGatewaySettings } from '../config/gateway-settings.ts';
import { readGateway } from '../config/read-gateway.ts';
import { isGatewayFile, modifiedAtOf, readText } from '../config/sources.ts';
import { readTree } from '../config/tree.ts';
import type { Configuration } from '../config/watch.ts';
import { placeDocuments } from '../documents/istio/read.ts';

/** What a status is computed from. */
export interface Judged {
  readonly configuration: Configuration;
  /** True with gateway.yaml; without it, backends and files are unknown. */
  readonly isWhole: boolean;
  /** Files beside the documents that are not read. */
  readonly passedOver: readonly Problem[];
}

/**
 * `objects` are those of the API server that gateway.yaml names.
 * @throws SallyportError `config_invalid` with every problem, `config_unreadable`, `usage` for a sidecar's file.
 */
export async function readJudged(path: string, objects?: Snapshot): Promise<Judged> {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ? ofDirectory(path) : ofFile(path, objects);
}

/**
 * gateway.yaml and its admin address; undefined if there are only documents.
 * @throws SallyportError `config_invalid` or `config_unreadable`.
 */
export function readAdmin(path: string): { readonly file: string; readonly admin: Address | undefined } | undefined {
  const isDirectory = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  const file = isDirectory ? readTree(path).files.find((one) => isGatewayFile(readText(one))) : path;
  if (file === undefined) return undefined;
  const text = readText(file);
  return isGatewayFile(text) ? { file, admin: parseGatewaySettings(text, file).admin } : undefined;
}

/**
 * True for a gateway.yaml that is valid and whose documents come from an API server.
 * @throws SallyportError `config_invalid` or `config_unreadable`.
 */
export function isWatched(file: string): boolean {
  const text = readText(file);
  return isGatewayFile(text) && parseGatewaySettings(text, file).gateway?.kubernetes !== undefined;
}

async function ofFile(file: string, objects?: Snapshot): Promise<Judged> {
  const text = readText(file);
  if (!isGatewayFile(text))
    throw new SallyportError('usage', `${file} configures a sidecar, not a gateway`, {
      hint: "run 'sallyport sidecar'",
    });
  if (objects === undefined && isWatched(file))
    throw new SallyportError(
      'usage',
      `the documents of ${file} are at an API server: only a running gateway knows them`,
      {
        hint: "ask it with 'sallyport gateway status'",
      },
    );
  const reading = await readGateway(file, text, undefined, objects);
  return { configuration: { generation: 1, ...reading }, isWhole: true, passedOver: reading.passedOver };
}

async function ofDirectory(directory: string): Promise<Judged> {
  const tree = readTree(directory);
  const sources = tree.files.map((file) => ({ file, text: readText(file), modifiedAt: modifiedAtOf(file) }));
  const settings = sources.find(({ text }) => isGatewayFile(text));
  if (settings !== undefined) return ofFile(settings.file);
  const { placed, problems } = placeDocuments(sources);
  const read = readPlaced(placed, await loadOwnKindsIn(placed));
  const all = [...problems, ...read.problems];
  if (all.length > 0) throw configError(all);
  const gateway: GatewayConfig = { ...read.gateway, certificates: {}, sessionKeys: undefined, errorPages: {} };
  return {
    configuration: { generation: 1, settings: alone, documents: read.istio, gateway },
    isWhole: false,
    passedOver: tree.passedOver,
  };
}

/** The settings of a gateway of which only the documents are known. */
const alone = parseGatewaySettings(
  'trustDomain: example.org\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: .\n',
  'gateway.yaml',
);
