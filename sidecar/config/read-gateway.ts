// One reading of a gateway's configuration: gateway.yaml, the documents that it names, and the files that both name.

import { createHash } from 'node:crypto';
import { serialize } from 'node:v8';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { gatewayKinds, type WatchedKind } from '../cluster/kinds.ts';
import type { Snapshot } from '../cluster/store.ts';
import { loadOwnKinds } from '../documents/sallyport.ts';
import { ownKindsOf } from '../edge/capabilities.ts';
import type { AnyCapability } from '../edge/capability.ts';
import { ownApiVersion, ownGroup } from '../edge/policy.ts';
import { keyOf } from '../routing/documents.ts';
import { withoutExposed } from './exposed-secrets.ts';
import { type GatewayConfig, readGatewayConfig } from './gateway-config.ts';
import { parseGatewaySettings } from './gateway-settings.ts';
import { withServices } from './kubernetes/backends.ts';
import {
  classWarnings,
  oursOf,
  placeObjects,
  type ReadObject,
  readObjects,
  workloadWarnings,
} from './kubernetes/place.ts';
import { type Aside, setAside, withOwnRules } from './kubernetes/set-aside.ts';
import type { Reading } from './read.ts';
import type { Settings } from './settings.ts';
import { filesOf, readSources } from './sources.ts';

/** Of an API server that was not asked yet. */
const unread: Snapshot = [];

/**
 * Reads everything that gateway.yaml leads to. @throws SallyportError `config_invalid` with every problem,
 * `config_unreadable`.
 */
export async function readGateway(
  file: string,
  text: string,
  table?: readonly AnyCapability[],
  objects = unread,
): Promise<Reading> {
  const written = parseGatewaySettings(text, file);
  if (written.gateway?.kubernetes === undefined) return readWith(file, text, table, written, nothingAside([]));
  const trusted = new Set([written.workload.namespace, written.rootNamespace]);
  const read = readObjects(objects);
  const { objects: ours, warnings: ofRules } = withOwnRules(oursOf(read), trusted);
  const ofClasses = objects === unread ? [] : classWarnings(read, file);
  const warnings = [...ofClasses, ...workloadWarnings(read, written.rootNamespace), ...ofRules];
  const all = { ...nothingAside(ours), warnings };
  try {
    return await readWith(file, text, table, written, all);
  } catch (error) {
    if (ours.length === 0 || !(error instanceof SallyportError) || error.code !== 'config_invalid') throw error;
    // What is wrong may be an object of one tenant.
    const aside = setAside(ours, await loadOwnKinds(table), trusted);
    return readWith(file, text, table, written, { ...aside, warnings: [...warnings, ...aside.warnings] });
  }
}

function nothingAside(objects: readonly ReadObject[]): Aside {
  return { objects, broken: [], refused: [], services: new Map(), warnings: [] };
}

async function readWith(
  file: string,
  text: string,
  table: readonly AnyCapability[] | undefined,
  written: Settings,
  aside: Aside,
): Promise<Reading> {
  const { settings, placed, refused } = ofObjects(aside, written);
  const { sources, passedOver } = readSources(file, settings, text);
  const named = new Set(filesOf(settings));
  const documents = sources.slice(1).filter((one) => !named.has(one.file));
  const files = new Map(sources.flatMap((one) => (named.has(one.file) ? [[one.file, one.text] as const] : [])));
  const read = await readGatewayConfig(settings, documents, files, table, placed);
  const { gateway, closed } = withoutExposed(withAside(withRefused(read.gateway, refused), aside), settings, sources);
  // A file that was closed to others is recorded as closed: the watch must not take that for a change.
  const seen = sources.map((one) => (closed.has(one.file) ? { ...one, exposed: false } : one));
  const watched = settings.gateway?.kubernetes === undefined ? undefined : watchedKinds(table);
  const reading = { settings, documents: read.istio, gateway, passedOver };
  return { ...reading, sources: seen, ...(watched && { watched, content: contentOf(reading) }) };
}

/** Computed here because this process ends: the time is not the gateway's. */
function contentOf(reading: object): string {
  return createHash('sha256').update(serialize(reading)).digest('base64');
}

function watchedKinds(table?: readonly AnyCapability[]): readonly WatchedKind[] {
  return gatewayKinds(ownKindsOf(table), ownGroup, ownApiVersion.slice(ownGroup.length + 1));
}

/** What the objects of an API server add: documents, and the upstreams of Services. */
function ofObjects({ objects, services }: Aside, settings: Settings) {
  const { kubernetes } = settings.gateway!;
  if (kubernetes === undefined) return { settings, placed: [], refused: new Map<string, string>() };
  const documents = objects.filter(({ object }) => object.kind !== 'EndpointSlice');
  return { ...withServices(objects, settings, kubernetes, services), placed: placeObjects(documents) };
}

/** What the objects that cannot be read close. */
function withAside(gateway: GatewayConfig, { broken, refused, warnings }: Aside): GatewayConfig {
  if (warnings.length === 0) return gateway;
  const { documents } = gateway;
  return {
    ...gateway,
    broken: [...gateway.broken, ...broken],
    documents: {
      ...documents,
      refused: [...documents.refused, ...refused],
      warnings: [...documents.warnings, ...warnings],
    },
  };
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
