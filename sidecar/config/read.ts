// Reads the configuration once: sidecar.yaml and the policies beside it, as text and as values.

import type { Problem } from '../../cert-agent/base/errors.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { parseIstio } from '../documents/istio/read.ts';
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
 * Reads everything that `file` leads to. What only a gateway needs is loaded for gateway.yaml alone.
 * @throws SallyportError `config_invalid` with every problem, `config_unreadable`.
 */
export async function readConfiguration(file: string): Promise<Reading> {
  const text = readText(file);
  if (isGatewayFile(text)) return (await import('./read-gateway.ts')).readGateway(file, text);
  const { parseSettings } = await import('./sidecar-settings.ts');
  const settings = parseSettings(text, file);
  const { sources, passedOver } = readSources(file, settings, text);
  return { settings, documents: parseIstio(sources.slice(1)), sources, passedOver };
}
