// One reading of the configuration: sidecar.yaml and the policies beside it, as text and as what they say.

import type { IstioDocuments } from './documents.ts';
import { parseIstio } from './istio.ts';
import { parseSettings, type Settings } from './settings.ts';
import { readSources, readText, type Source } from './sources.ts';

/** Settings and policies that were read together, and the text that they were read from. Plain data. */
export interface Reading {
  readonly settings: Settings;
  readonly documents: IstioDocuments;
  readonly sources: readonly Source[];
}

/** Reads everything that `file` leads to. @throws SallyportError `config_invalid` with every problem, `config_unreadable`. */
export function readConfiguration(file: string): Reading {
  const text = readText(file);
  const settings = parseSettings(text, file);
  const sources = readSources(file, settings.policies, text);
  return { settings, documents: parseIstio(sources.slice(1)), sources };
}
