#!/usr/bin/env node
// The `sallyport` command. Plain JavaScript that any Node of the last ten years parses, so that an old one gets a
// sentence instead of a syntax error. It imports nothing before it has looked at the version.
const wanted = [24, 19];
const [major, minor] = process.versions.node.split('.').map(Number);

if (major < wanted[0] || (major === wanted[0] && minor < wanted[1])) {
  process.stderr.write(
    `sallyport: this is Node ${process.versions.node}, and ${wanted.join('.')} or later is needed; in a clone, 'npm run setup' brings one\n`,
  );
  process.exitCode = 2;
} else {
  import('node:fs')
    .then(({ existsSync }) => {
      // In a clone the source runs as it is; the package holds only what the build made of it.
      const source = new URL('./cli.ts', import.meta.url);
      return import(existsSync(source) ? source.href : new URL('../dist/sidecar/cli.js', import.meta.url).href);
    })
    .then(({ run }) => run(process.argv));
}
