// One reading of a gateway's configuration: gateway.yaml, the documents that it names, and the files that both name.

import type { OwnKinds } from '../documents/sallyport.ts';
import { withoutExposed } from './exposed-secrets.ts';
import { readGatewayConfig } from './gateway-config.ts';
import { parseGatewaySettings } from './gateway-settings.ts';
import type { Reading } from './read.ts';
import { filesOf, readSources } from './sources.ts';

/**
 * Reads everything that gateway.yaml leads to. @throws SallyportError `config_invalid` with every problem,
 * `config_unreadable`.
 */
export function readGateway(file: string, text: string, kinds?: OwnKinds): Reading {
  const settings = parseGatewaySettings(text, file);
  const { sources, passedOver } = readSources(file, settings, text);
  const named = new Set(filesOf(settings));
  const documents = sources.slice(1).filter((one) => !named.has(one.file));
  const files = new Map(sources.flatMap((one) => (named.has(one.file) ? [[one.file, one.text] as const] : [])));
  const read = readGatewayConfig(settings, documents, files, kinds);
  const { gateway, closed } = withoutExposed(read.gateway, settings, sources);
  // A file that was closed to others is recorded as closed: the watch must not take that for a change.
  const seen = sources.map((one) => (closed.has(one.file) ? { ...one, exposed: false } : one));
  return { settings, documents: read.istio, gateway, sources: seen, passedOver };
}
