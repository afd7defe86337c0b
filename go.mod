module bk.build/bk

go 1.26.8
