// Reads the configuration once: sidecar.yaml and the policies beside it, as text and as values.

import type { Problem } from '../../cert-agent/base/errors.ts';
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
}

/**
 * Reads everything that `file` leads to. `table` has the capabilities; default those of this build. What only a gateway
 * needs is loaded for gateway.yaml alone.
 * @throws SallyportError `config_invalid` with every problem, `config_unreadable`.
 */
export async function readConfiguration(file: string, table?: readonly AnyCapability[]): Promise<Reading> {
  const text = readText(file);
  if (isGatewayFile(text)) {
    const [{ readGateway }, { loadOwnKinds }] = await Promise.all([
      import('./read-gateway.ts'),
      import('../documents/sallyport.ts'),
    ]);
    return readGateway(file, text, await loadOwnKinds(table));
  }
  const { readSettings } = await import('./sidecar-settings.ts');
  const settings = await readSettings(text, file, table);
  const { sources, passedOver } = readSources(file, settings, text);
  return { settings, documents: parseIstio(sources.slice(1)), sources, passedOver };
}
