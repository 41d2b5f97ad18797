# One image for all commands: the CA, the agent, the sidecar, and the tools. Built from source, runs as user 1337.
#
#   docker build -t sallyport:0.1.0 .
#   docker run --rm sallyport:0.1.0 --help

FROM node:24.20.0-bookworm-slim AS build
WORKDIR /sallyport
# No workspace: it is a second Node, and this image has the right one. No install script runs.
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --workspaces=false --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json build.mjs ./
COPY cert-agent cert-agent
COPY sidecar sidecar
RUN PATH="$PATH:$PWD/node_modules/.bin" node build.mjs && npm prune --omit=dev --ignore-scripts --workspaces=false --no-audit --no-fund

FROM node:24.20.0-bookworm-slim
# 1337 is the user that meshes give their proxies: iptables rules and policies know it. A volume that is mounted on one of
# these directories belongs to it from the start.
RUN groupadd --gid 1337 sallyport \
  && useradd --uid 1337 --gid 1337 --no-create-home --home-dir /var/lib/sallyport --shell /usr/sbin/nologin sallyport \
  && mkdir -p /var/lib/sallyport /run/sallyport/operator /run/sallyport/trust /run/sallyport/token \
  && chown -R 1337:1337 /var/lib/sallyport /run/sallyport \
  && ln -s /opt/sallyport/sidecar/bin.mjs /usr/local/bin/sallyport
WORKDIR /opt/sallyport
COPY package.json LICENSE ./
COPY sidecar/bin.mjs sidecar/bin.mjs
COPY --from=build /sallyport/node_modules node_modules
COPY --from=build /sallyport/dist dist
# Threads that each keep a heap of their own hold 3 to 10 MB that nobody uses (measured under load).
ENV MALLOC_ARENA_MAX=1
USER 1337:1337
WORKDIR /var/lib/sallyport
# As `sallyport`. Not with --disable-sigusr1: Node then blocks that signal for good, and log rotation sends it.
ENTRYPOINT ["node", "--min-semi-space-size=4", "/opt/sallyport/sidecar/bin.mjs"]
CMD ["--help"]
