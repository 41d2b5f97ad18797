// Reads the configuration once: sidecar.yaml and the policies beside it, as text and as values.

import type { Problem } from '../../cert-agent/base/errors.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { parseIstio } from '../documents/istio/read.ts';
import { withoutExposed } from './exposed-secrets.ts';
import { type GatewayConfig, readGatewayConfig } from './gateway-config.ts';
import { isGatewayFile, parseGatewaySettings } from './gateway-settings.ts';
import type { Settings } from './settings.ts';
import { parseSettings } from './sidecar-settings.ts';
import { filesOf, readSources, readText, type Source } from './sources.ts';

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
 * Reads `file` and everything it refers to. @throws SallyportError `config_invalid` with all problems,
 * `config_unreadable`.
 */
export function readConfiguration(file: string): Reading {
  const text = readText(file);
  const settings = isGatewayFile(text) ? parseGatewaySettings(text, file) : parseSettings(text, file);
  const { sources, passedOver } = readSources(file, settings, text);
  if (settings.gateway === undefined) return { settings, documents: parseIstio(sources.slice(1)), sources, passedOver };
  const named = new Set(filesOf(settings));
  const documents = sources.slice(1).filter((one) => !named.has(one.file));
  const files = new Map(sources.flatMap((one) => (named.has(one.file) ? [[one.file, one.text] as const] : [])));
  const read = readGatewayConfig(settings, documents, files);
  const { gateway, closed } = withoutExposed(read.gateway, settings, sources);
  // The files with corrected modes count as such from here on: the watch must not see that as a change.
  const seen = sources.map((one) => (closed.has(one.file) ? { ...one, exposed: false } : one));
  return { settings, documents: read.istio, gateway, sources: seen, passedOver };
}
