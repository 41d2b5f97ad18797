// The manifest of a backup: what its files are, and how far its ledger had come.

import { createHash } from 'node:crypto';
import { createReadStream, lstatSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { reasonOf, SallyportError } from '../../base/errors.ts';

/** The names of files in a backup's directory. */
export const manifestFile = 'manifest.json';
export const storeName = 'store.sqlite';

const hash = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.number().int().nonnegative();

/** A path inside of the backup: no file of it may be written elsewhere. */
const path = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]*(?:\/[A-Za-z0-9_][A-Za-z0-9_.-]*){0,3}$/);

const schema = z.strictObject({
  backup: z.literal(1),
  trustDomain: z.string(),
  /** RFC 3339. */
  time: z.iso.datetime(),
  /** SHA-256 of the CA's roots. */
  roots: z.array(hash).min(1),
  /** The last record of the ledger in the store. */
  ledger: z.strictObject({ sequence: count, hash: z.union([hash, z.literal('')]) }),
  files: z.record(path, z.strictObject({ sha256: hash, bytes: count, mode: z.number().int().min(0).max(0o777) })),
});

/**
 * `manifest.json`, version 1. Paths are relative, and cannot leave the backup. `bytes` and `mode` are those of the
 * file.
 */
export type Manifest = z.output<typeof schema>;

/** Reads the manifest of the backup in `from` and verifies its files. @throws SallyportError `backup_invalid`. */
export async function readBackup(from: string): Promise<Manifest> {
  const manifest = readManifest(from);
  for (const [name, { sha256, bytes }] of Object.entries(manifest.files)) {
    const file = join(from, name);
    const found = lstatSync(file, { throwIfNoEntry: false });
    if (found === undefined) throw invalid(`${file} is missing`);
    if (!found.isFile()) throw invalid(`${file} is not a file`);
    if (found.size !== bytes || (await hashOfFile(file)) !== sha256)
      throw invalid(`${file} is not as it was when the backup was made`);
  }
  for (const name of [storeName, 'bundle.json', 'intermediate.pem', 'intermediate.key'])
    if (manifest.files[name] === undefined) throw invalid(`the backup in ${from} has no ${name}`);
  return manifest;
}

function readManifest(from: string): Manifest {
  const file = join(from, manifestFile);
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw invalid(`${file} cannot be read: ${reasonOf(error)}`, 'is it a directory that sallyport ca backup made?');
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw invalid(`${file} is not valid: ${issue?.path.join('.')}: ${issue?.message}`);
}

/** SHA-256, lower-case hex. */
export async function hashOfFile(file: string): Promise<string> {
  const digest = createHash('sha256');
  for await (const part of createReadStream(file, { highWaterMark: 1_048_576 })) digest.update(part as Buffer);
  return digest.digest('hex');
}

function invalid(message: string, hint = 'use another backup'): SallyportError {
  return new SallyportError('backup_invalid', message, { hint });
}
