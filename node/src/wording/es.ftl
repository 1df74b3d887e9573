voice-call = Llamada de { $name }
video-call = Videollamada de { $name }
message =
    { $count ->
        [one] Mensaje de { $name }
       *[other] { $count } mensajes de { $name }
    }
missed-call =
    { $count ->
        [one] Llamada perdida de { $name }
       *[other] { $count } llamadas perdidas de { $name }
    }
contact-request = { $name } quiere agregarte como contacto
voicemail =
    { $count ->
        [one] Mensaje de voz de { $name }
       *[other] { $count } mensajes de voz de { $name }
    }
file =
    { $count ->
        [one] { $name } te envía un archivo
       *[other] { $name } te envía { $count } archivos
    }
mail = Correo de { $name }
self-test = Ha llegado la notificación de prueba
notice = Novedades de { $name }
shown-on = { $event } (se muestra en { $device })
accept = Aceptar
decline = Rechazar
