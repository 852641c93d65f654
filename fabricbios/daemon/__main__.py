from fabricbios.daemon.main import main

main()
