FROM scratch
COPY a /
RNU echo hi
COPY b /
