// One reading of the configuration: sidecar.yaml and the policies beside it, as text and as what they say.

import type { Problem } from '../../cert-agent/base/errors.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { parseIstio } from '../documents/istio/read.ts';
import { withoutExposed } from './exposed-secrets.ts';
import { type GatewayConfig, readGatewayConfig } from './gateway-config.ts';
import { isGatewayFile, parseGatewaySettings } from './gateway-settings.ts';
import type { Settings } from './settings.ts';
import { parseSettings } from './sidecar-settings.ts';
import { filesOf, readSources, readText, type Source } from './sources.ts';

/** Settings and policies that were read together, and the text that they were read from. Plain data. */
export interface Reading {
  readonly settings: Settings;
  readonly documents: IstioDocuments;
  /** Present for a gateway. */
  readonly gateway?: GatewayConfig;
  readonly sources: readonly Source[];
  /** Files beside them that are not read: in each may stand what is believed to be in force. */
  readonly passedOver: readonly Problem[];
}

/** Reads everything that `file` leads to. @throws SallyportError `config_invalid` with every problem, `config_unreadable`. */
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
  // What was closed is read as closed from here on: it is no change that the watch would have to read again.
  const seen = sources.map((one) => (closed.has(one.file) ? { ...one, exposed: false } : one));
  return { settings, documents: read.istio, gateway, sources: seen, passedOver };
}
