module sokovan.dev/kit/pause

go 1.26.0
