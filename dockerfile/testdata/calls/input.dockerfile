# VERSION is the release
ARG VERSION=1

# base holds the tools
FROM scratch AS base
COPY a /

# app is what is shipped
from base as app
ARG TOKEN
ENV SECRET_TOKEN=$TOKEN
RUN --mount=type=secret,id=key,required --mount=type=cache,target=/c true
MAINTAINER me
