// V8's compile cache in the processes that we start. A process does not hand it down to its children.

import { getCompileCacheDir } from 'node:module';
import { dirname } from 'node:path';

/**
 * `env`, and in it the compile cache of this process, if it has one. A child without it strips and compiles every module
 * again, which is half of what the process costs that reads a configuration.
 */
export function withCompileCache(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  // Node names a directory for its own version inside the one that it was given.
  const own = getCompileCacheDir();
  return own === undefined ? env : { ...env, NODE_COMPILE_CACHE: dirname(own) };
}
