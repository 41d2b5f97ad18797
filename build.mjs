// `npm run build`: dist/ from the source, with plain JavaScript that runs under Node alone, and the files beside it.
import { spawnSync } from 'node:child_process';
import { cpSync, globSync, rmSync } from 'node:fs';

rmSync('dist', { recursive: true, force: true });
const { status } = spawnSync('tsc', ['-p', 'tsconfig.build.json'], { stdio: 'inherit' });
if (status !== 0) process.exit(status ?? 1);
// What is data to the program: read from beside its own file, in dist/ as in the source.
for (const file of globSync('{cert-agent,sidecar}/**/*.{json,html,sql,proto}')) cpSync(file, `dist/${file}`);
