# Built where all of npm's packages are, run where only the needed ones are.
FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json ./
COPY src ./src
RUN npm run build && npm prune --omit=dev

FROM node:24-slim
ENV NODE_ENV=production \
    CHANGEPROP_LISTEN_HOST=0.0.0.0
WORKDIR /app
COPY package.json LICENSE ./
COPY rules ./rules
COPY config ./config
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
# The store. Whoever mounts a folder of the host here must let uid 1000 write to it.
RUN install --directory --owner=node --group=node /var/lib/changeprop
VOLUME /var/lib/changeprop
USER node
EXPOSE 8192
# The image has no curl; node asks the service itself.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.CHANGEPROP_LISTEN_PORT ?? 8192}/healthz`).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# In exec form, so that SIGTERM reaches the service: it then ends in order.
CMD ["node", "dist/cli/cli.js", "serve", "--data", "/var/lib/changeprop"]
