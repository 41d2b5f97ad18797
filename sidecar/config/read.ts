// Reads the configuration once: sidecar.yaml and the policies beside it, as text and as values.

import type { Problem } from '../../cert-agent/base/errors.ts';
import type { WatchedKind } from '../cluster/kinds.ts';
import type { Snapshot } from '../cluster/store.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { parseIstio } from '../documents/istio/read.ts';
import type { AnyCapability } from '../edge/capability.ts';
import type { GatewayConfig } from './gateway-config.ts';
import type { Settings } from './settings.ts';
import { isGatewayFile, readSources, readText, type Source } from './sources.ts';

/** Settings and policies from one reading, and their source text. Plain data. */
export interface Reading {
  readonly settings: Settings;
  readonly documents: IstioDocuments;
  /** Present for a gateway. */
  readonly gateway?: GatewayConfig;
  readonly sources: readonly Source[];
  /** Files beside them that were not read: each may contain a policy that the operator believes to be in force. */
  readonly passedOver: readonly Problem[];
  /** The kinds to follow, for a gateway whose documents come from an API server. */
  readonly watched?: readonly WatchedKind[];
  /** Hash of everything but `sources`, for the same gateway: another state of the API server may say the same. */
  readonly content?: string;
}

/**
 * Reads everything that `file` leads to. `table` has the capabilities; default those of this build. What only a gateway
 * needs is loaded for gateway.yaml alone. `objects` are those of the API server that gateway.yaml names; without them
 * such a gateway has no documents.
 * @throws SallyportError `config_invalid` with every problem, `config_unreadable`.
 */
export async function readConfiguration(
  file: string,
  table?: readonly AnyCapability[],
  objects?: Snapshot,
): Promise<Reading> {
  const text = readText(file);
  if (isGatewayFile(text)) {
    const { readGateway } = await import('./read-gateway.ts');
    return readGateway(file, text, table, objects);
  }
  const { readSettings } = await import('./sidecar-settings.ts');
  const settings = await readSettings(text, file, table);
  const { sources, passedOver } = readSources(file, settings, text);
  return { settings, documents: parseIstio(sources.slice(1)), sources, passedOver };
}
