// One reading of a gateway's configuration: gateway.yaml, the documents that it names, and the files that both name.

import { gatewayKinds, type WatchedKind } from '../cluster/kinds.ts';
import type { Snapshot } from '../cluster/store.ts';
import { type OwnKinds, ownKinds } from '../documents/sallyport.ts';
import { ownApiVersion, ownGroup } from '../edge/policy.ts';
import { keyOf } from '../routing/documents.ts';
import { withoutExposed } from './exposed-secrets.ts';
import { type GatewayConfig, readGatewayConfig } from './gateway-config.ts';
import { parseGatewaySettings } from './gateway-settings.ts';
import { withServices } from './kubernetes/backends.ts';
import { oursOf, placeObjects, readObjects } from './kubernetes/place.ts';
import type { Reading } from './read.ts';
import type { Settings } from './settings.ts';
import { filesOf, readSources } from './sources.ts';

/**
 * Reads everything that gateway.yaml leads to. @throws SallyportError `config_invalid` with every problem,
 * `config_unreadable`.
 */
export function readGateway(file: string, text: string, kinds?: OwnKinds, objects: Snapshot = []): Reading {
  const written = parseGatewaySettings(text, file);
  const { settings, placed, refused } = ofObjects(objects, written);
  const { sources, passedOver } = readSources(file, settings, text);
  const named = new Set(filesOf(settings));
  const documents = sources.slice(1).filter((one) => !named.has(one.file));
  const files = new Map(sources.flatMap((one) => (named.has(one.file) ? [[one.file, one.text] as const] : [])));
  const read = readGatewayConfig(settings, documents, files, kinds, placed);
  const { gateway, closed } = withoutExposed(withRefused(read.gateway, refused), settings, sources);
  // A file that was closed to others is recorded as closed: the watch must not take that for a change.
  const seen = sources.map((one) => (closed.has(one.file) ? { ...one, exposed: false } : one));
  const watched = settings.gateway?.kubernetes === undefined ? undefined : watchedKinds(kinds);
  return { settings, documents: read.istio, gateway, sources: seen, passedOver, ...(watched && { watched }) };
}

function watchedKinds(own: OwnKinds = ownKinds): readonly WatchedKind[] {
  return gatewayKinds([...own.keys()], ownGroup, ownApiVersion.slice(ownGroup.length + 1));
}

/** What the objects of an API server add: documents, and the upstreams of Services. */
function ofObjects(objects: Snapshot, settings: Settings) {
  const { kubernetes } = settings.gateway!;
  if (kubernetes === undefined) return { settings, placed: [], refused: new Map<string, string>() };
  const ours = oursOf(readObjects(objects));
  const documents = ours.filter(({ object }) => object.kind !== 'EndpointSlice');
  return { ...withServices(ours, settings, kubernetes), placed: placeObjects(documents) };
}

/** The Services that have no upstream say why. */
function withRefused(gateway: GatewayConfig, refused: ReadonlyMap<string, string>): GatewayConfig {
  if (refused.size === 0) return gateway;
  const services = gateway.documents.services.map((one) => {
    const why = refused.get(keyOf(one));
    return why === undefined ? one : { ...one, spec: { ...one.spec, refused: why } };
  });
  return { ...gateway, documents: { ...gateway.documents, services } };
}
